# A web server over TLS with the files that it finds, by Python's `http.server`. It tells who asked, and how many
# handshakes were whole. `SPEAKS=plain`: without TLS, whatever it is spoken to as.
import http.server, os, ssl, threading

FOLDER = "/run/minato/identity/"
whole, lock = 0, threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.who = "nobody"
        if isinstance(self.request, ssl.SSLSocket):
            global whole
            self.request.do_handshake()
            self.who = [name for kind, name in self.request.getpeercert()["subjectAltName"] if kind == "URI"][0]
            with lock:
                whole += not self.request.session_reused

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        read = len(self.rfile.read(length))
        text = f"{self.who} {whole} {read}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if self.path == "/end":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler)
if os.environ.get("SPEAKS") != "plain":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=FOLDER + "ca.crt")
    context.load_cert_chain(FOLDER + "tls.crt", FOLDER + "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
