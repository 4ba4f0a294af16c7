use super::*;

/// A log of `count` lines over two files: line n was written at moment 10 * n.
fn write(folder: &Path, count: u64, turned_at: u64) -> std::path::PathBuf {
    let path = folder.join("a.log");
    let record =
        |n: u64| format!("{n} {} {} line {n}\n", 10 * n, if n.is_multiple_of(2) { 'o' } else { 'e' });
    std::fs::write(folder.join("a.log.1"), (0..turned_at).map(record).collect::<String>()).unwrap();
    std::fs::write(&path, (turned_at..count).map(record).collect::<String>()).unwrap();
    path
}

fn lines(path: &Path, begin: Begin, limit: usize) -> Vec<u64> {
    read(path, begin, limit).unwrap().into_iter().map(|record| record.line).collect()
}

#[test]
fn a_log_is_read_from_any_place_over_both_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), 30_000, 20_000);
    assert_eq!(lines(&path, Begin::Tail, 3), [29_997, 29_998, 29_999]);
    assert_eq!(lines(&path, Begin::Tail, 10_002).len(), 10_002);
    assert_eq!(lines(&path, Begin::Tail, 10_002)[0], 19_998);
    assert_eq!(lines(&path, Begin::Tail, 100_000).len(), 30_000);
    for after in [0, 1, 7_777, 19_998, 19_999, 20_000, 29_997] {
        assert_eq!(lines(&path, Begin::AfterLine(after), 2)[0], after + 1);
        assert_eq!(lines(&path, Begin::Since(Moment(i64::try_from(10 * after).unwrap())), 2)[0], after);
    }
    assert_eq!(lines(&path, Begin::AfterLine(29_999), 2), [] as [u64; 0]);
    assert_eq!(lines(&path, Begin::Since(Moment(-1)), 2), [0, 1]);
}

#[test]
fn what_is_torn_or_foreign_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    assert_eq!(lines(&path, Begin::Tail, 5), [] as [u64; 0]);
    std::fs::write(&path, b"0 5 o one\nnonsense\n1 6 e \xff\xfe\n2 7 o half").unwrap();
    for begin in [Begin::Tail, Begin::Since(Moment(0))] {
        let records = read(&path, begin, 5).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].text.as_str(), records[0].stream), ("one", Stream::Stdout));
        assert_eq!((records[1].text.as_str(), records[1].stream), ("\u{fffd}\u{fffd}", Stream::Stderr));
    }
}
