# A web server that says who called it, and that calls another service over TLS when it is asked to: `/proven` with
# its own certificate, `/bare` without, `/claimed` with a header that isn't its to say.
import http.client, http.server, os, ssl

FOLDER = "/run/minato/identity/"


def call(how):
    context = ssl.create_default_context(cafile=FOLDER + "ca.crt")
    if how == "proven":
        context.load_cert_chain(FOLDER + "tls.crt", FOLDER + "tls.key")
    connection = http.client.HTTPSConnection(os.environ["CALLEE"], context=context, timeout=20)
    claimed = {"Minato-Caller": "spiffe://claimed/"} if how == "claimed" else {}
    connection.request("GET", "/", headers=claimed)
    return connection.getresponse().read().decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        how = self.path.strip("/")
        headers = self.headers
        text = call(how) if how else f"{headers.get('Minato-Caller')} {headers.get('X-Forwarded-Proto')}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
