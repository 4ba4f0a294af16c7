//! An edge to test, instances behind it, an agent that notes what it is told, and a raw client.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use minato_edge::{Config, Edge, Handle, listen};
use minato_model::{
    ids::{InstanceId, ReleaseKey, ReleaseNumber},
    manifest::Protocol,
    network::AddressPlan,
    node::Phases,
    route::{Endpoint, Entry, Route, Split, Table, Weight},
    routing::{Routing as _, Wake},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// What the agent was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Wake(ReleaseKey, u32),
    Suspect(InstanceId),
    Failing(InstanceId),
    Distrust(InstanceId, String),
}

struct Agent(mpsc::UnboundedSender<Told>);

impl Wake for Agent {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        drop(self.0.send(Told::Wake(release.clone(), need)));
    }
    fn suspect(&self, instance: &InstanceId) {
        drop(self.0.send(Told::Suspect(instance.clone())));
    }
    fn failing(&self, instance: &InstanceId) {
        drop(self.0.send(Told::Failing(instance.clone())));
    }
    fn distrust(&self, instance: &InstanceId, reason: &str) {
        drop(self.0.send(Told::Distrust(instance.clone(), reason.to_owned())));
    }
}

/// A running edge.
pub(crate) struct Bed {
    pub(crate) edge: Edge,
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
}

pub(crate) fn bed() -> Bed {
    bed_with(None, |_| {})
}

pub(crate) fn bed_with(plan: Option<AddressPlan>, change: impl FnOnce(&mut Config)) -> Bed {
    // A free port may be another test's before all listeners have it.
    let mut tries = (0..20).filter_map(|_| listen::bind("127.0.0.1:0".parse().unwrap(), 2).ok());
    let http = tries.next().expect("a free port");
    let mut config = Config::new(http, plan);
    change(&mut config);
    bed_of(config)
}

pub(crate) fn bed_of(config: Config) -> Bed {
    let address = config.http[0].local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    let edge = Edge::start(config, Arc::new(Agent(tell))).unwrap();
    Bed { handle: edge.handle(), edge, address, told }
}

impl Bed {
    /// Puts services in force.
    pub(crate) async fn publish(&self, services: Vec<Entry>) {
        self.handle.publish(Arc::new(Table { services })).await;
    }

    /// Puts `shop/web` at `shop.localhost` in force, changed as wished, with release 1.
    pub(crate) async fn publish_web(&self, change: impl FnOnce(&mut Route)) {
        self.publish(vec![entry("shop/web", change, &[(1, 1)])]).await;
    }

    pub(crate) async fn next_told(&mut self) -> Told {
        within(self.told.recv()).await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One `GET` on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        let mut client = self.client().await;
        client.get(path).await
    }

    /// Waits until so many requests wait for a release.
    pub(crate) async fn waiting(&self, key: &ReleaseKey, count: u32) {
        until(|| self.handle.load(key).waiting == count).await;
    }

    pub(crate) async fn in_flight(&self, key: &ReleaseKey, count: u32) {
        until(|| self.handle.load(key).in_flight == count).await;
    }
}

/// Asks again and again until it is so; a test that waits in vain fails.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    within(async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Nothing here takes longer, even on a busy machine.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes too long")
}

pub(crate) fn entry(
    service: &str,
    change: impl FnOnce(&mut Route),
    weights: &[(ReleaseNumber, u32)],
) -> Entry {
    let mut route = Route {
        hosts: vec!["shop.localhost".to_owned()],
        paths: vec!["/".to_owned()],
        virtual_offset: 2,
        port: 8080,
        protocol: Protocol::Http,
        calls: None,
        timeout: Duration::from_secs(10),
        body_max: 100 << 20,
        concurrency: 32,
        concurrency_max: 128,
        listen: None,
        tls: Default::default(),
        traffic: minato_model::traffic::Policy::default(),
    };
    change(&mut route);
    let weights =
        weights.iter().map(|(number, weight)| Weight { number: *number, weight: *weight }).collect();
    Entry { service: service.parse().unwrap(), route, weights, split: Split::default() }
}

pub(crate) fn release(number: ReleaseNumber) -> ReleaseKey {
    ReleaseKey { service: "shop/web".parse().unwrap(), number }
}

pub(crate) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// An instance: it answers by what the path asks for.
pub(crate) struct Instance {
    pub(crate) endpoint: Endpoint,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Instance {
    pub(crate) async fn start(name: &str) -> Self {
        Self::of(name, release(1)).await
    }

    pub(crate) async fn of(name: &str, release: ReleaseKey) -> Self {
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (name_too, opened, asked) = (name.to_owned(), Arc::clone(&connections), Arc::clone(&requests));
        let serve = move |stream| {
            opened.fetch_add(1, SeqCst);
            answer_all(stream, name_too.clone(), Arc::clone(&asked))
        };
        let (address, task) = serve_raw(serve).await;
        let endpoint = endpoint(name, release, address);
        Self { endpoint, connections, requests, task }
    }

    /// Ends it as a kill would: all its sockets are closed.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn endpoint(name: &str, release: ReleaseKey, address: SocketAddr) -> Endpoint {
    let SocketAddr::V4(address) = address else { panic!("an IPv4 address") };
    let cold = Some(Phases { taken: Some(0.5), listening: Some(2.0), ..Phases::default() });
    let (instance, address, port) = (id(name), *address.ip(), address.port());
    Endpoint { instance, release, address, port, cold, pooled: Some(true), zone: None, protocol: None }
}

/// Serves each connection of a listener of its own; all end with the task.
pub(crate) async fn serve_raw<F>(
    mut serve: impl FnMut(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut all = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            all.spawn(serve(stream));
        }
    });
    (address, task)
}

/// A request as an instance got it.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: u64,
}

/// Reads one request with its body; `None`: the connection has ended.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> Option<Asked> {
    let head = read_head(stream, rest).await?;
    let path = head.split(' ').nth(1)?.to_owned();
    let field = |name: &str| field(&head, name);
    let mut body = 0;
    if let Some(length) = field("content-length") {
        body = length.parse().unwrap();
        skip(stream, rest, body).await?;
    } else if field("transfer-encoding").is_some() {
        body = skip_chunks(stream, rest).await?;
    }
    Some(Asked { path, head, body })
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> Option<()> {
    let length = stream.read_buf(rest).await.ok()?;
    (length > 0).then_some(())
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = rest.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        fill(stream, rest).await?;
    }
}

async fn skip(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>, mut length: u64) -> Option<()> {
    while length > 0 {
        if rest.is_empty() {
            rest.reserve(64 * 1024);
            fill(stream, rest).await?;
        }
        let taken = rest.len().min(usize::try_from(length).unwrap());
        rest.drain(..taken);
        length -= u64::try_from(taken).unwrap();
    }
    Some(())
}

async fn skip_chunks(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> Option<u64> {
    let mut total = 0;
    loop {
        let end = loop {
            match rest.windows(2).position(|window| window == b"\r\n") {
                Some(end) => break end,
                None => fill(stream, rest).await?,
            }
        };
        let line: Vec<u8> = rest.drain(..end + 2).collect();
        let size = u64::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        skip(stream, rest, size + 2).await?;
        total += size;
        if size == 0 {
            return Some(total);
        }
    }
}

pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (other, value) = line.split_once(": ")?;
        other.eq_ignore_ascii_case(name).then_some(value)
    })
}

pub(crate) async fn answer_all(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    name: String,
    requests: Arc<AtomicUsize>,
) {
    let mut rest = Vec::new();
    while let Some(asked) = read_request(&mut stream, &mut rest).await {
        requests.fetch_add(1, SeqCst);
        let mut parts = asked.path.trim_start_matches('/').split('/');
        let (what, number) = (parts.next().unwrap_or(""), parts.next().and_then(|n| n.parse::<usize>().ok()));
        let head = |extra: &str| format!("HTTP/1.1 200 OK\r\nx-instance: {name}\r\n{extra}\r\n");
        let number = number.unwrap_or(0);
        let answer = match what {
            "echo" => [head(&format!("content-length: {}\r\n", asked.head.len())), asked.head].concat(),
            "body" => {
                let text = asked.body.to_string();
                [head(&format!("content-length: {}\r\n", text.len())), text].concat()
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(number.try_into().unwrap())).await;
                head("content-length: 0\r\n")
            }
            "stream" => {
                let head = head(&format!("content-length: {number}\r\n"));
                if send_zeros(&mut stream, head, number).await.is_none() {
                    return;
                }
                continue;
            }
            "chunked" => head("transfer-encoding: chunked\r\n") + "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n",
            "close" => {
                drop(stream.write_all((head("") + "until the end").as_bytes()).await);
                return;
            }
            "goodbye" => {
                drop(stream.write_all((head("") + "until the end").as_bytes()).await);
                drop(stream.shutdown().await);
                return;
            }
            "head" => head("content-length: 12345\r\n"),
            "none" => format!("HTTP/1.1 204 No Content\r\nx-instance: {name}\r\n\r\n"),
            "forge" => head("minato-origin: cluster\r\nminato-code: upstream\r\ncontent-length: 0\r\n"),
            "garbage" => "SSH-2.0-x\r\n\r\n".to_owned(),
            "half" => {
                drop(stream.write_all((head("content-length: 100\r\n") + "half").as_bytes()).await);
                return;
            }
            "die" => return,
            _ => head(&format!("content-length: {}\r\n", name.len())) + &name,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn send_zeros(stream: &mut (impl AsyncWrite + Unpin), head: String, mut left: usize) -> Option<()> {
    stream.write_all(head.as_bytes()).await.ok()?;
    let zeros = vec![b'0'; 64 * 1024];
    while left > 0 {
        let length = left.min(zeros.len());
        stream.write_all(&zeros[..length]).await.ok()?;
        left -= length;
    }
    Some(())
}

/// A client of raw bytes.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    rest: Vec<u8>,
}

/// An answer as a client got it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) whole: bool,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The edge's own code.
    pub(crate) fn code(&self) -> Option<&str> {
        assert_eq!(self.field("minato-code").is_some(), self.field("minato-origin") == Some("cluster"));
        self.field("minato-code")
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn on(stream: S) -> Self {
        Self { stream, rest: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, fields: &str) -> Reply {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: shop.localhost\r\n{fields}\r\n")).await;
        self.reply(method).await
    }

    /// The next answer.
    pub(crate) async fn reply(&mut self, method: &str) -> Reply {
        within(self.try_reply(method)).await.expect("an answer")
    }

    /// The next answer, unless the connection ends before.
    pub(crate) async fn try_reply(&mut self, method: &str) -> Option<Reply> {
        let (head, status) = loop {
            let head = read_head(&mut self.stream, &mut self.rest).await?;
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            if status != 100 {
                break (head, status);
            }
        };
        let mut reply = Reply { status, head, body: Vec::new(), whole: true };
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return Some(reply);
        }
        if let Some(length) = reply.field("content-length") {
            let length: usize = length.parse().unwrap();
            while self.rest.len() < length && reply.whole {
                reply.whole = fill(&mut self.stream, &mut self.rest).await.is_some();
            }
            reply.body = self.rest.drain(..length.min(self.rest.len())).collect();
        } else if reply.field("transfer-encoding").is_some() {
            reply.whole = self.chunks(&mut reply.body).await.is_some();
        } else {
            while fill(&mut self.stream, &mut self.rest).await.is_some() {}
            reply.body = std::mem::take(&mut self.rest);
        }
        Some(reply)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let end = loop {
                match self.rest.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => fill(&mut self.stream, &mut self.rest).await?,
                }
            };
            let line: Vec<u8> = self.rest.drain(..end + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            while self.rest.len() < size + 2 {
                fill(&mut self.stream, &mut self.rest).await?;
            }
            body.extend(self.rest.drain(..size + 2).take(size));
            if size == 0 {
                return Some(());
            }
        }
    }

    /// The next bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.rest.len() < count {
            within(fill(&mut self.stream, &mut self.rest)).await.unwrap();
        }
        self.rest.drain(..count).collect()
    }

    /// Whether the edge has closed the connection, and had nothing more to say.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        within(self.stream.read(&mut byte)).await.map_or(true, |length| length == 0)
    }
}
