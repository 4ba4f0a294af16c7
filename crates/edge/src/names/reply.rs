//! What the cluster itself knows about a question. Pure.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};
use minato_model::ids::ServiceKey;

/// How long an answer may be kept, in seconds. An address is for life, so this only bounds how long
/// a deleted service is remembered.
const TTL: u32 = 5;
/// The largest message over UDP that we say we take.
const PAYLOAD: u16 = 1232;

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Answered.
    Own(Vec<u8>),
    /// To be asked of the host's resolvers.
    Forward,
    /// Nothing that could be answered.
    None,
}

/// Answers a question, if it is about the cluster; `address` knows the services.
pub(super) fn reply(query: &[u8], address: impl Fn(&ServiceKey) -> Option<Ipv4Addr>) -> Reply {
    let Ok(query) = Message::from_vec(query) else { return Reply::None };
    if query.metadata.message_type != MessageType::Query {
        return Reply::None;
    }
    if query.metadata.op_code != OpCode::Query {
        return own(&query, ResponseCode::NotImp, None);
    }
    let [question] = query.queries.as_slice() else { return own(&query, ResponseCode::FormErr, None) };
    if !is_internal(question.name()) {
        return Reply::Forward;
    }
    let address = service(question.name()).and_then(|key| address(&key));
    let asked = |kind| question.query_type() == kind;
    match address {
        None => own(&query, ResponseCode::NXDomain, None),
        Some(address)
            if question.query_class() == DNSClass::IN && (asked(RecordType::A) || asked(RecordType::ANY)) =>
        {
            let record = Record::from_rdata(question.name().clone(), TTL, RData::A(A(address)));
            own(&query, ResponseCode::NoError, Some(record))
        }
        // The name exists, so "no data": NXDOMAIN for AAAA would make some clients give up.
        Some(_) => own(&query, ResponseCode::NoError, None),
    }
}

/// The answer to a question that nobody could answer.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    match own(&Message::from_vec(query).ok()?, ResponseCode::ServFail, None) {
        Reply::Own(answer) => Some(answer),
        Reply::Forward | Reply::None => None,
    }
}

fn own(query: &Message, code: ResponseCode, record: Option<Record>) -> Reply {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.response_code = code;
    answer.metadata.authoritative = code != ResponseCode::ServFail;
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(query.queries.clone());
    answer.add_answers(record);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        answer.set_edns(edns);
    }
    answer.to_vec().map_or(Reply::None, Reply::Own)
}

fn is_internal(name: &Name) -> bool {
    name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"internal"))
}

/// `<service>.<app>.internal`.
fn service(name: &Name) -> Option<ServiceKey> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let [service, app, _] = labels.as_slice() else { return None };
    let text = |label: &[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
    Some(ServiceKey { app: text(app)?.parse().ok()?, service: text(service)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn check(name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<RData>)> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let known =
            |key: &ServiceKey| (key.to_string() == "shop/cart").then_some(Ipv4Addr::new(10, 77, 0, 9));
        match reply(&query.to_vec().unwrap(), known) {
            Reply::Own(answer) => {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!((answer.metadata.id, &answer.queries), (query.metadata.id, &query.queries));
                Some((answer.metadata.response_code, answer.answers.into_iter().map(|r| r.data).collect()))
            }
            Reply::Forward => None,
            Reply::None => panic!("no reply"),
        }
    }

    #[test]
    fn services_have_addresses() {
        let address = vec![RData::A(A(Ipv4Addr::new(10, 77, 0, 9)))];
        assert_eq!(
            check("cart.shop.internal.", RecordType::A),
            Some((ResponseCode::NoError, address.clone()))
        );
        assert_eq!(check("Cart.SHOP.Internal.", RecordType::A), Some((ResponseCode::NoError, address)));
        assert_eq!(check("cart.shop.internal.", RecordType::AAAA), Some((ResponseCode::NoError, vec![])));
        for unknown in ["x.shop.internal.", "internal.", "a.cart.shop.internal.", "_x.shop.internal."] {
            assert_eq!(check(unknown, RecordType::A), Some((ResponseCode::NXDomain, vec![])), "{unknown}");
        }
        assert_eq!(check("cart.shop.internal.example.org.", RecordType::A), None);
        assert_eq!(check(".", RecordType::NS), None);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        assert_eq!(reply(b"", |_| None), Reply::None);
        assert_eq!(reply(&[0xff; 40], |_| None), Reply::None);
        let mut answer = Message::query();
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(reply(&answer.to_vec().unwrap(), |_| None), Reply::None);
    }
}
