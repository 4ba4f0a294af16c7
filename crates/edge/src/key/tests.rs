use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn client<'a>(headers: &'a HeaderMap, peer: &str, proxies: &'a [Prefix]) -> Client<'a> {
    let peer: IpAddr = peer.parse().unwrap();
    Client { headers, peer, trusted: proxies.iter().any(|prefix| prefix.contains(peer)), proxies }
}

#[test]
fn the_hash_is_the_one_that_was_published() {
    for (text, expected) in [
        ("", 0xef46_db37_51d8_e999),
        ("a", 0xd24e_c4f1_a98c_6e5b),
        ("abc", 0x44bc_2cf5_ad77_0999),
        ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
    ] {
        assert_eq!(hash(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn the_last_address_that_is_not_a_proxys_is_the_clients() {
    let proxies: Vec<Prefix> = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap()).to_vec();
    let check = |peer: &str, lines: &[&str]| {
        let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        client(&headers(&fields), peer, &proxies).address().to_string()
    };
    assert_eq!(check("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "nobody believes it");
    assert_eq!(check("10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(check("10.0.0.1", &["203.0.113.66, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
    assert_eq!(check("10.0.0.1", &["203.0.113.66", "198.51.100.7", "10.0.0.2, 2001:db8::9"]), "198.51.100.7");
    assert_eq!(check("10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3");
    assert_eq!(check("10.0.0.1", &["203.0.113.66, nonsense, 10.0.0.2"]), "10.0.0.2");
    assert_eq!(check("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
    assert_eq!(check("10.0.0.1", &["[2001:db9::1]:4711"]), "2001:db9::1");
    assert_eq!(check("10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
}

#[test]
fn cookies_are_read_from_every_line() {
    let headers =
        headers(&[("cookie", "theme=dark; Xid=1; id = a ; broken"), ("cookie", "other=\"x y\";id=b")]);
    let all = |name: &str| cookies(&headers, name).collect::<Vec<_>>();
    assert_eq!(all("id"), [b"a", b"b"]);
    assert_eq!(all("other"), [b"x y"]);
    assert_eq!(all("ID"), Vec::<&[u8]>::new(), "names of cookies have a case");
    let client = client(&headers, "192.0.2.1", &[]);
    let id = Key::Cookie("id".to_owned());
    assert!(client.shows(&id, None) && client.shows(&id, Some("b")) && !client.shows(&id, Some("c")));
    assert_eq!(client.hash(&id), Some(hash(b"a")));
    assert_eq!(client.hash(&Key::Cookie("none".to_owned())), None);
}

#[test]
fn an_empty_value_tells_nobody_apart() {
    let headers = headers(&[("x-user", ""), ("x-beta", "1")]);
    let client = client(&headers, "192.0.2.1", &[]);
    assert_eq!(client.hash(&Key::Header("x-user".to_owned())), None);
    assert!(client.shows(&Key::Header("x-user".to_owned()), None));
    assert!(client.shows(&Key::Header("x-beta".to_owned()), Some("1")));
    assert!(!client.shows(&Key::Header("x-beta".to_owned()), Some("2")));
    assert!(client.shows(&Key::Address, Some("192.0.2.1")) && !client.shows(&Key::Address, Some("x")));
    assert_eq!(client.hash(&Key::Address), Some(hash(&[192, 0, 2, 1])));
}
