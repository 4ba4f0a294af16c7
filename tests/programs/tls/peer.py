# A TLS server and a client of every other, by Python's `ssl`. A peer's line is answered with who it is.
import os, socket, ssl, threading, time

FOLDER = "/run/minato/identity/"
APP, PORT = os.environ["MINATO_APP"], int(os.environ["PORT"])


def context(side):
    made = ssl.SSLContext(side)
    made.load_cert_chain(FOLDER + "tls.crt", FOLDER + "tls.key")
    made.load_verify_locations(FOLDER + "ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def answer(plain):
    try:
        with server.wrap_socket(plain, server_side=True) as peer:
            peer.settimeout(20)
            who = [name for kind, name in peer.getpeercert()["subjectAltName"] if kind == "URI"]
            peer.recv(100)
            peer.sendall(f"{who[0]}\n".encode())
    except OSError as error:
        print(f"python refused a client: {error}", flush=True)


def serve():
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=answer, args=[plain]).start()


def ask(by, host, name):
    with socket.create_connection((host, PORT), 20) as plain:
        with by.wrap_socket(plain, server_hostname=name) as peer:
            peer.sendall(b"hello\n")
            said = peer.recv(200).decode().strip()
            if not said:
                raise OSError("no answer")
            return said


def name_of(peer):
    return f"{peer}.{APP}.internal"


server = context(ssl.PROTOCOL_TLS_SERVER)
client = context(ssl.PROTOCOL_TLS_CLIENT)
threading.Thread(target=serve).start()
for peer in os.environ["PEERS"].split():
    for tries in range(20):
        try:
            print(f"python to {peer}: {ask(client, name_of(peer), name_of(peer))}", flush=True)
            break
        except OSError as error:
            failure = error
            time.sleep(1)
    else:
        print(f"python to {peer}: failed: {failure}", flush=True)
# Who has another name, who shows nothing, and whose authority isn't trusted.
nobody = ssl.create_default_context(cafile=FOLDER + "ca.crt")
doubter = ssl.create_default_context()
for what, by, name in [
    ("another name", client, name_of("openssl")),
    ("to show nothing", nobody, name_of("node")),
    ("an authority that is nobody's", doubter, name_of("node")),
]:
    try:
        ask(by, name_of("node"), name)
        print(f"python was let in with {what}", flush=True)
    except OSError as error:
        print(f"python is refused {what}: {error}", flush=True)
