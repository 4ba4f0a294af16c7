// The same as asker.c, by Node.js, with what its own resolver says of the name beside it.
const dns = require("dns");
const http = require("http");
const resolved = (host, done) =>
    dns.resolve4(host, (no4, found) =>
        dns.resolve6(host, (no6) => done(`\nresolve4 ${no4 ? no4.code : found} resolve6 ${no6 && no6.code}`)));
const answer = (request, response) => {
    const [, host, port] = request.url.split("/");
    const asked = http.get({ host, port, agent: false }, (said) => {
        let text = `HTTP/1.1 ${said.statusCode}\r\n`;
        for (const name in said.headers) text += `${name}: ${said.headers[name]}\r\n`;
        said.on("data", (part) => (text += part));
        said.on("end", () => resolved(host, (names) => response.end(text + names)));
    });
    asked.setTimeout(20000, () => asked.destroy(new Error("no answer")));
    asked.on("error", (error) => response.end(`${error}`));
};
http.createServer(answer).listen(process.env.PORT);
