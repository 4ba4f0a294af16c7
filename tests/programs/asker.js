// The same as asker.c, by Node.js and its own way of resolving names.
const http = require("http");
const answer = (request, response) => {
    const [, host, port] = request.url.split("/");
    const asked = http.get({ host, port, agent: false }, (said) => {
        let text = `HTTP/1.1 ${said.statusCode}\r\n`;
        for (const name in said.headers) text += `${name}: ${said.headers[name]}\r\n`;
        said.on("data", (part) => (text += part));
        said.on("end", () => response.end(text));
    });
    asked.setTimeout(20000, () => asked.destroy(new Error("no answer")));
    asked.on("error", (error) => response.end(`${error}`));
};
http.createServer(answer).listen(process.env.PORT);
