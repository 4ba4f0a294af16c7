use std::time::{Duration, UNIX_EPOCH};

use minato_model::time::Moment;

use super::*;

/// Logs of a service `shop/cart`: instance and its lines as the runtime writes them.
fn written(logs: &[(&str, &str)]) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let folder = folder(data.path(), &"shop/cart".parse().unwrap());
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in logs {
        fs::write(folder.join(name), text).unwrap();
    }
    data
}

fn ask(data: &Path, change: impl FnOnce(&mut LogQuery)) -> Vec<String> {
    let mut asked = LogQuery {
        service: "shop/cart".parse().unwrap(),
        release: None,
        instance: None,
        after: None,
        limit: 10,
    };
    change(&mut asked);
    query(data, &asked).unwrap().into_iter().map(|line| line.text).collect()
}

#[test]
fn lines_of_all_instances_come_in_order() {
    let data = written(&[
        ("1-aaa.log", "0 1000 o one\n1 1002 e three\n"),
        ("2-bbb.log", "0 1001 o two\n1 1002 o four\n"),
        ("notes.txt", "nothing"),
    ]);
    let data = data.path();
    assert_eq!(ask(data, |_| {}), ["one", "two", "three", "four"]);
    assert_eq!(ask(data, |query| query.limit = 2), ["three", "four"]);
    assert_eq!(ask(data, |query| query.release = Some(2)), ["two", "four"]);
    assert_eq!(ask(data, |query| query.instance = Some("aaa".parse().unwrap())), ["one", "three"]);
    assert_eq!(ask(data, |query| query.service = "shop/none".parse().unwrap()), [""; 0]);
    let after = |at, instance: &'static str, line| {
        move |query: &mut LogQuery| {
            query.after = Some(LogPosition { at: Moment(at), instance: instance.parse().unwrap(), line });
            query.limit = 2;
        }
    };
    assert_eq!(ask(data, after(1000, "aaa", 0)), ["two", "three"]);
    assert_eq!(ask(data, after(1002, "aaa", 1)), ["four"]);
    assert_eq!(ask(data, after(1002, "bbb", 1)), [""; 0]);
}

#[test]
fn the_oldest_logs_of_ended_instances_go() {
    let names: Vec<String> = (0..KEPT + 3).map(|number| format!("1-i{number}.log")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let data = written(&files);
    let folder = folder(data.path(), &"shop/cart".parse().unwrap());
    for (age, name) in names.iter().enumerate() {
        let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(age as u64)).unwrap();
    }
    fs::write(folder.join("1-i1.log.1"), "").unwrap();
    remove_oldest(&folder, &["i0".parse().unwrap()].into()).unwrap();
    let mut left: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut wanted: Vec<String> =
        names.iter().filter(|n| *n != "1-i1.log" && *n != "1-i2.log").cloned().collect();
    wanted.sort();
    assert_eq!(left, wanted);
}
