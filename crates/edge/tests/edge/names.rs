//! The name server, asked over the wire.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use minato_model::network::AddressPlan;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
};

use crate::support::{bed_with, entry, within};

fn question(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

async fn ask_udp(plan: AddressPlan, query: &Message) -> Message {
    let socket = UdpSocket::bind((plan.at(20_000), 0)).await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), (plan.gateway(), 53)).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, from) = within(socket.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(from, SocketAddr::from((plan.gateway(), 53)));
    Message::from_vec(&buffer[..length]).unwrap()
}

fn answer(message: &Message) -> (ResponseCode, Vec<RData>) {
    (message.metadata.response_code, message.answers.iter().map(|record| record.data.clone()).collect())
}

#[tokio::test]
async fn names_of_services_are_answered_and_others_forwarded() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 93, 0, 0));
    // A resolver of the host, which knows one name.
    let resolver = UdpSocket::bind((plan.at(30_000), 53)).await.unwrap();
    let address = plan.at(30_000);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_queries(query.queries.clone());
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 80)));
            answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
            // A forged one comes first.
            let mut forged = answer.clone();
            forged.metadata.id = query.metadata.id.wrapping_add(1);
            resolver.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
            resolver.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("nameserver {}\nnameserver {address}\n", plan.gateway())).unwrap();
    let bed = bed_with(Some(plan), |config| config.resolv_conf = file.path().to_owned());
    bed.publish(vec![entry("shop/cart", |route| route.virtual_offset = 77, &[])]).await;

    let query = question("cart.shop.internal.", RecordType::A);
    let reply = ask_udp(plan, &query).await;
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (query.metadata.id, MessageType::Response));
    assert_eq!(answer(&reply), (ResponseCode::NoError, vec![RData::A(A(plan.at(77)))]));
    let reply = ask_udp(plan, &question("cart.shop.internal.", RecordType::AAAA)).await;
    assert_eq!(answer(&reply), (ResponseCode::NoError, vec![]));
    let reply = ask_udp(plan, &question("none.shop.internal.", RecordType::A)).await;
    assert_eq!(answer(&reply), (ResponseCode::NXDomain, vec![]));
    let query = question("www.example.org.", RecordType::A);
    let reply = ask_udp(plan, &query).await;
    assert_eq!(reply.metadata.id, query.metadata.id);
    assert_eq!(answer(&reply), (ResponseCode::NoError, vec![RData::A(A(Ipv4Addr::new(192, 0, 2, 80)))]));
}

#[tokio::test]
async fn names_are_answered_over_tcp_and_without_resolvers_there_is_a_failure() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 94, 0, 0));
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = bed_with(Some(plan), |config| config.resolv_conf = file.path().to_owned());
    bed.publish(vec![entry("shop/cart", |route| route.virtual_offset = 77, &[])]).await;
    let reply = ask_udp(plan, &question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer(&reply), (ResponseCode::ServFail, vec![]));

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((plan.at(20_000), 0).into()).unwrap();
    let mut stream = socket.connect((plan.gateway(), 53).into()).await.unwrap();
    for name in ["cart.shop.internal.", "CART.shop.internal."] {
        let query = question(name, RecordType::A).to_vec().unwrap();
        stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut reply = vec![0; usize::from(within(stream.read_u16()).await.unwrap())];
        within(stream.read_exact(&mut reply)).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(answer(&reply), (ResponseCode::NoError, vec![RData::A(A(plan.at(77)))]));
    }
}
