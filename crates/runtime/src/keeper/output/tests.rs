use std::{fs::File, io::Write, path::Path};

use minato_model::node::Stream as Where;

use super::*;
use crate::logs::{Begin, Record, read};

/// What a log holds after these bytes were written to standard output.
fn check(folder: &Path, max: u64, pieces: &[&[u8]]) -> Vec<Record> {
    let path = folder.join("logs/a.log");
    let (mut output, ends) = Output::new(&path, max, 0).unwrap();
    let [stdout, stderr] = ends.map(File::from);
    for (piece, now) in pieces.iter().zip(1..) {
        (&stdout).write_all(piece).unwrap();
        while output.read(Stream::Stdout, now) == Taken::Something {}
    }
    drop((stdout, stderr));
    output.finish(0);
    read(&path, Begin::Tail, 100_000).unwrap()
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.text.as_str()).collect()
}

#[test]
fn lines_are_put_together_and_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let records = check(folder.path(), 1 << 20, &[b"one\ntw", b"o\r\n\nlast"]);
    assert_eq!(texts(&records), ["one", "two", "", "last"]);
    assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // Times never go back, though the clock did.
    assert_eq!(records.iter().map(|record| record.at.0).collect::<Vec<_>>(), [1, 2, 2, 2]);
    assert!(records.iter().all(|record| record.stream == Where::Stdout));
}

#[test]
fn a_line_without_end_is_cut_and_the_next_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec![b'x'; TEXT_MAX];
    let records = check(folder.path(), 1 << 20, &[&long, &long, b"\nnext\n"]);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].text.len(), TEXT_MAX);
    assert!(records[0].text.ends_with("x…"));
    assert_eq!(records[1].text, "next");
}

#[test]
fn the_files_never_grow_past_their_bound_and_keep_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let max = 4 * TEXT_MAX as u64;
    let pieces: Vec<Vec<u8>> = (0..600).map(|n| format!("{n:01023}\n").into_bytes()).collect();
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let records = check(folder.path(), max, &pieces);
    for name in ["a.log", "a.log.1"] {
        assert!(folder.path().join("logs").join(name).metadata().unwrap().len() <= max);
    }
    assert_eq!(records.last().unwrap().line, 599);
    assert!(records.len() > 63, "{}", records.len());
    assert!(records.windows(2).all(|pair| pair[0].line + 1 == pair[1].line));
}

#[test]
fn what_a_full_disk_costs_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let (mut output, [stdout, _stderr]) = Output::new(&path, 1 << 20, 0).unwrap();
    let stdout = File::from(stdout);
    let write = |output: &mut Output, text: &str| {
        (&stdout).write_all(text.as_bytes()).unwrap();
        output.read(Stream::Stdout, 1);
    };
    write(&mut output, "first\n");
    let before = output.log.file.replace(File::options().write(true).open("/dev/full").unwrap());
    write(&mut output, "lost\nlost\n");
    write(&mut output, "lost\n");
    output.log.file = before;
    write(&mut output, "after\n");
    let records = read(&path, Begin::Tail, 10).unwrap();
    assert_eq!(texts(&records), ["first", "[3 lines were dropped: the log could not be written]", "after"]);
    assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [0, 3, 4]);
}

#[test]
fn one_that_writes_too_much_rests_until_it_has_paid() {
    const SECOND: u64 = 1_000_000_000;
    let mut allowance = Allowance { left: i64::from(BURST), at: 0 };
    allowance.spend(4 << 20);
    assert_eq!(allowance.rest(0), None);
    allowance.spend(8 << 20);
    let rest = allowance.rest(0).unwrap();
    assert!(rest > SECOND && rest < SECOND + SECOND / 100, "{rest}");
    assert_eq!(allowance.rest(rest), None);
    // What isn't used is not saved up.
    assert_eq!(allowance.rest(rest + 1000 * SECOND), None);
    assert_eq!(allowance.left, i64::from(BURST));
}

#[test]
fn what_a_full_pipe_held_at_the_end_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let (mut output, [stdout, _stderr]) = Output::new(&path, 1 << 20, 0).unwrap();
    rustix::pipe::fcntl_setpipe_size(&stdout, 4 * TURN).unwrap();
    // The first turns hold no line's end.
    (&File::from(stdout)).write_all(&[&vec![b'x'; 3 * TURN][..], b"\nlast"].concat()).unwrap();
    output.finish(0);
    let records = read(&path, Begin::Tail, 10).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].text, "last");
}
