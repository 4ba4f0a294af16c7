// A TLS server and a client of every other, by Node.js. A peer's line is answered with who it is.
const fs = require("fs");
const tls = require("tls");
const read = (name) => fs.readFileSync("/run/minato/identity/" + name);
const own = { cert: read("tls.crt"), key: read("tls.key"), ca: read("ca.crt"), rejectUnauthorized: true };
const { PORT, PEERS, MINATO_APP } = process.env;

const server = tls.createServer({ ...own, requestCert: true }, (peer) => {
    peer.on("error", () => {});
    const who = peer.getPeerCertificate().subjectaltname.match(/URI:([^,]+)/)[1];
    peer.once("data", () => peer.end(`${who}\n`));
});
server.on("tlsClientError", (error) => console.log(`node refused a client: ${error.message}`));
server.listen(PORT);

const ask = (host) =>
    new Promise((done, failed) => {
        const peer = tls.connect({ ...own, host, port: PORT, servername: host }, () => peer.write("hello\n"));
        peer.setTimeout(20000, () => peer.destroy(new Error("no answer")));
        peer.once("data", (said) => done(`${said}`.trim()) || peer.destroy());
        peer.once("end", () => failed(new Error("no answer")));
        peer.once("error", failed);
    });

(async () => {
    for (const peer of PEERS.split(" ")) {
        for (let tries = 0; ; tries += 1) {
            try {
                console.log(`node to ${peer}: ${await ask(`${peer}.${MINATO_APP}.internal`)}`);
                break;
            } catch (error) {
                if (tries === 20) {
                    console.log(`node to ${peer}: failed: ${error.message}`);
                    break;
                }
                await new Promise((later) => setTimeout(later, 1000));
            }
        }
    }
})();
