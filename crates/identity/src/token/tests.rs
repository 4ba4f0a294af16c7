use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::*;

const OWN: &str = "0123456789abcdef0123456789abcdef";

fn order(scopes: &[&str]) -> Order {
    let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
    Order { name: "ci".to_owned(), scopes, expires_at: Some(Moment(10_000)), by: "server".to_owned() }
}

fn tokens() -> (Tokens, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = now.clone();
    (Tokens::new(OWN, Arc::new(move || Moment(clock.load(Ordering::Relaxed)))), now)
}

#[test]
fn a_token_is_known_by_its_text_alone() {
    let (tokens, _) = tokens();
    let (record, text) = make(order(&["read"]), Moment(0)).unwrap();
    assert_eq!(tokens.check(text.as_bytes()).unwrap_err(), Refused::Unknown, "not before it is kept");
    let id = record.token.id.clone();
    assert!(text.starts_with(&format!("mnt_{id}_")) && text.len() == 79, "{}", *text);
    let kept = serde_json::to_string(&record).unwrap();
    assert!(!kept.contains(&text[15..]), "{kept}");
    tokens.put(serde_json::from_str(&kept).unwrap(), 5);
    assert_eq!(tokens.check(text.as_bytes()).unwrap().who(), &Who::Token(id.clone()));
    assert_eq!(tokens.again(&Who::Token(id)).unwrap().who().to_string(), tokens.list()[0].id.as_str());
    assert!(tokens.check(OWN.as_bytes()).unwrap().is_admin());
}

#[test]
fn what_isnt_exactly_a_token_is_none() {
    let (tokens, _) = tokens();
    let (record, text) = make(order(&["admin"]), Moment(0)).unwrap();
    let id = record.token.id.to_string();
    tokens.put(record, 1);
    let secret = &text[15..];
    let other = if secret.starts_with('0') { "1" } else { "0" };
    let wrong = [
        String::new(),
        "mnt_".to_owned(),
        format!("mnt_{id}"),
        format!("mnt_{id}_"),
        format!("MNT_{id}_{secret}"),
        format!("mnt_{id}_{}", secret.to_uppercase()),
        format!("mnt_{id}_{other}{}", &secret[1..]),
        format!("mnt_aaaaaaaaaa_{secret}"),
        format!("mnt_{id}-{secret}"),
        format!("{} ", *text),
        format!(" {}", *text),
        format!("{}\0", *text),
        format!("{}0", *text),
        text[..78].to_owned(),
        format!("{OWN}0"),
        OWN[1..].to_owned(),
        "x".repeat(100_000),
        "\u{6e2f}".repeat(26),
    ];
    for wrong in wrong {
        assert_eq!(tokens.check(wrong.as_bytes()).unwrap_err(), Refused::Unknown, "{wrong}");
    }
    assert!(tokens.check(&[0xff; 79]).is_err());
    assert!(tokens.check(text.as_bytes()).unwrap().is_admin());
    let none = Tokens::new("", Arc::new(|| Moment(0)));
    assert!(none.check(b"").is_err() && none.again(&Who::Own).is_err());
}

#[test]
fn a_token_ends() {
    let (tokens, now) = tokens();
    let (record, text) = make(order(&["read"]), Moment(0)).unwrap();
    let id = record.token.id.clone();
    tokens.put(record.clone(), 3);
    now.store(9_999, Ordering::Relaxed);
    tokens.check(text.as_bytes()).unwrap();
    now.store(10_000, Ordering::Relaxed);
    let expired = Refused::Expired { id: id.clone(), at: Moment(10_000) };
    assert_eq!(tokens.check(text.as_bytes()).unwrap_err(), expired);
    now.store(0, Ordering::Relaxed);
    let mut revoked = record.clone();
    revoked.token.revoked_at = Some(Moment(50));
    tokens.put(revoked.clone(), 8);
    // What comes late of the time before doesn't bring it back.
    tokens.put(record.clone(), 3);
    tokens.replace(vec![(record, 3)], 7);
    tokens.remove(&id, 7);
    let why = Refused::Revoked { id: id.clone(), at: Moment(50) };
    assert_eq!(tokens.check(text.as_bytes()).unwrap_err(), why);
    assert_eq!(tokens.again(&Who::Token(id.clone())).unwrap_err(), why);
    assert_eq!(revoked.token.ended(Moment(0)), Some(Moment(50)));
    // Nobody without the secret learns that there was one.
    assert_eq!(
        tokens.check(format!("mnt_{id}_{}", "0".repeat(64)).as_bytes()).unwrap_err(),
        Refused::Unknown
    );
    tokens.replace(Vec::new(), 9);
    assert_eq!(tokens.check(text.as_bytes()).unwrap_err(), Refused::Unknown);
}

#[test]
fn scopes_allow_what_they_say() {
    let (tokens, _) = tokens();
    let may = |scopes: &[&str]| {
        let (record, text) = make(order(scopes), Moment(0)).unwrap();
        tokens.put(record, 1);
        let bearer = tokens.check(text.as_bytes()).unwrap();
        let shop = "shop".parse().unwrap();
        [
            bearer.may_read(),
            bearer.may_deploy(&shop),
            bearer.may_pull("shop/web"),
            bearer.may_push("shop/web"),
            bearer.is_admin(),
        ]
    };
    assert_eq!(may(&["read"]), [true, false, true, false, false]);
    assert_eq!(may(&["deploy:shop"]), [false, true, false, false, false]);
    assert_eq!(may(&["deploy:blog", "push:blog/*"]), [false; 5]);
    assert_eq!(may(&["push:shop/*"]), [false, false, true, true, false]);
    assert_eq!(may(&["admin"]), [true; 5]);
}

#[test]
fn an_order_has_bounds() {
    let made = |order| make(order, Moment(0)).map(|(record, _)| record.token);
    assert!(matches!(made(order(&[])), Err(MakeError::NoScope)));
    assert_eq!(made(order(&["read", "read"])).unwrap().scopes.len(), 1);
    let many: Vec<_> = (0..33).map(|number| format!("deploy:a{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(matches!(made(order(&many)), Err(MakeError::ManyScopes)));
    made(order(&many[..32])).unwrap();
    for name in ["x".repeat(81), "a\nb".to_owned(), "\u{1b}[31m".to_owned()] {
        assert!(matches!(made(Order { name, ..order(&["read"]) }), Err(MakeError::Name)));
    }
    made(Order { name: "\u{6e2f}".repeat(80), ..order(&["read"]) }).unwrap();
}

#[test]
fn a_check_goes_on_while_tokens_change() {
    let (tokens, _) = tokens();
    let (record, text) = make(order(&["read"]), Moment(0)).unwrap();
    tokens.put(record.clone(), 1);
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut revoked = false;
                    for _ in 0..20_000 {
                        let counts = tokens.check(text.as_bytes()).is_ok();
                        assert!(!(counts && revoked), "a revoked token counted again");
                        revoked |= !counts;
                    }
                })
            })
            .collect();
        for revision in 2..200 {
            let (other, _) = make(order(&["read"]), Moment(0)).unwrap();
            tokens.put(other, revision);
            if revision == 100 {
                let mut record = record.clone();
                record.token.revoked_at = Some(Moment(0).plus(Duration::from_millis(1)));
                tokens.put(record, revision);
            }
        }
        checks.into_iter().for_each(|check| check.join().unwrap());
    });
    assert!(matches!(tokens.check(text.as_bytes()), Err(Refused::Revoked { .. })));
}
