//! Closed files: what is there is what was delivered, wherever a writer died, and what was changed is found.

use super::*;
use crate::sink::testing::{Dir, Story};

fn files(directory: &Dir) -> Files {
    Files::new(Target {
        directory: directory.0.clone(),
        parquet: false,
    })
}

/// Delivers up to a seq, so many records at a time.
fn deliver(files: &mut Files, story: &Story, past: u64, step: u64) {
    let mut at = files.mark(&story.id, story.host).expect("a mark").next;
    while at < past {
        let next = (at + step).min(past);
        let mark = files
            .deliver(&story.batch(at, next))
            .expect("it takes them");
        assert_eq!(mark, story.mark(next));
        at = next;
    }
}

fn sums(files: &mut Files, story: &Story) -> Result<Totals, SinkError> {
    files.sums(&story.id, story.size(), &[])
}

fn of(directory: &Dir, story: &Story) -> PathBuf {
    directory.0.join(hex(&story.id))
}

#[test]
fn what_is_there_is_what_was_delivered_and_another_writer_goes_on_from_it() {
    let (directory, mut story) = (Dir::new(), Story::new(1, 40));
    let mut first = files(&directory);
    deliver(&mut first, &story, 40, 7);
    drop(first);
    story.grow(25);
    let mut second = files(&directory);
    let mark = second.mark(&story.id, story.host).expect("a mark");
    assert_eq!(mark, story.mark(40));
    deliver(&mut second, &story, 65, 20);
    assert_eq!(sums(&mut second, &story).ok(), Some(story.totals(65)));
    // What is pruned in the ledger is left out on this side too.
    let gone = second.sums(&story.id, 65, &[0..10, 12..60]).expect("sums");
    let mut kept = Totals::default();
    let items = story.batch(10, 12).items.into_iter();
    for item in items.chain(story.batch(60, 65).items) {
        kept.add(&item);
    }
    assert_eq!(gone, kept);
    let names = Dir::names(&of(&directory, &story));
    assert!(
        names.contains(&"00000000000000000040.manifest.json".to_owned()),
        "{names:?}"
    );
    assert_eq!(
        names.iter().filter(|name| name.ends_with(".tmp")).count(),
        0,
        "{names:?}"
    );
}

#[test]
fn nobody_but_the_owner_and_the_group_reads_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, story) = (Dir::new(), Story::new(1, 12));
    deliver(&mut files(&directory), &story, 12, 6);
    let at = of(&directory, &story);
    let mode = |path: &Path| {
        let found = fs::metadata(path).expect("it is there");
        found.permissions().mode() & 0o777
    };
    // What the umask of whoever runs this takes away is not asked for.
    assert_eq!(mode(&at) & 0o027, 0);
    for name in Dir::names(&at).iter().filter(|name| *name != "lock") {
        assert_eq!(mode(&at.join(name)) & 0o137, 0, "{name}");
    }
}

#[test]
fn where_nothing_happens_a_manifest_says_so_and_no_file_is_made() {
    let (directory, story) = (Dir::new(), Story::new(1, 12));
    let mut sink = files(&directory);
    deliver(&mut sink, &story, 2, 2);
    // The third record is a total, which is nobody's.
    deliver(&mut sink, &story, 3, 1);
    deliver(&mut sink, &story, 12, 9);
    assert_eq!(sums(&mut sink, &story).ok(), Some(story.totals(12)));
    let names = Dir::names(&of(&directory, &story));
    let third = names
        .iter()
        .filter(|name| name.starts_with("00000000000000000002"));
    assert_eq!(
        third.collect::<Vec<_>>(),
        ["00000000000000000002.manifest.json"]
    );
}

#[test]
fn the_csv_has_the_bill_with_the_names_of_focus_and_no_formula() {
    let (directory, story) = (Dir::new(), Story::new(1, 12));
    deliver(&mut files(&directory), &story, 12, 12);
    let path = of(&directory, &story).join("00000000000000000000.csv");
    let text = fs::read_to_string(path).expect("a table");
    let mut lines = text.split_terminator("\r\n");
    let header: Vec<&str> = lines.next().expect("names").split(',').collect();
    let quantity = header.iter().position(|name| *name == "ConsumedQuantity");
    assert_eq!(quantity, Some(5));
    let billed = story.batch(0, 12).items;
    assert_eq!(lines.clone().count(), billed.len());
    let first = lines.next().expect("a line");
    assert!(
        first.contains(",Usage,,\"Bytes from the tenant") && first.contains("'=port"),
        "{first}"
    );
    assert!(first.starts_with("2026-11-18T11:06:40Z,"), "{first}");
    let correction = text
        .lines()
        .find(|line| line.contains("Correction"))
        .expect("one");
    assert!(
        correction.contains(",Usage,Correction,\"a, \"\"reason\"\"\",-5,Bytes,"),
        "{correction}"
    );
}

#[test]
fn a_writer_that_dies_anywhere_leaves_nothing_half_and_nothing_twice() {
    let story = Story::new(1, 30);
    let (before, after) = (Dir::new(), Dir::new());
    deliver(&mut files(&before), &story, 20, 10);
    deliver(&mut files(&after), &story, 30, 10);
    let new: Vec<String> = Dir::names(&of(&after, &story))
        .into_iter()
        .filter(|name| name.starts_with("00000000000000000020"))
        .collect();
    assert_eq!(new.len(), 3, "{new:?}");
    let mut cases = 0;
    // Of each new file: nothing, a part under its temporary name, all under it, its name; the manifest also both.
    for state in 0..4_usize.pow(3) * 2 {
        let states = [state % 4, state / 4 % 4, state / 16 % 4];
        let is_linked = state >= 64;
        let manifest = new
            .iter()
            .position(|name| name.ends_with(MANIFEST))
            .expect("a manifest");
        let data_is_whole = (0..3).all(|at| at == manifest || states[at] == 3);
        if states[manifest] != 0 && !data_is_whole || is_linked && states[manifest] != 3 {
            continue; // the order of the writes does not allow it
        }
        cases += 1;
        let directory = Dir::new();
        let to = of(&directory, &story);
        fs::create_dir(&to).expect("a directory");
        for name in Dir::names(&of(&before, &story)) {
            fs::copy(of(&before, &story).join(&name), to.join(&name)).expect("a copy");
        }
        for (name, state) in new.iter().zip(states) {
            let bytes = fs::read(of(&after, &story).join(name)).expect("a file");
            let temporary = to.join(format!("{name}{TEMPORARY}"));
            match state {
                0 => {}
                1 => fs::write(&temporary, &bytes[..bytes.len() / 2]).expect("room"),
                2 => fs::write(&temporary, &bytes).expect("room"),
                _ => fs::write(to.join(name), &bytes).expect("room"),
            }
            if is_linked && name.ends_with(MANIFEST) {
                fs::write(&temporary, &bytes).expect("room");
            }
        }
        let mut next = files(&directory);
        let mark = next.mark(&story.id, story.host).expect("a mark");
        let committed = states[manifest] == 3;
        assert_eq!(
            mark,
            story.mark(if committed { 30 } else { 20 }),
            "{states:?}"
        );
        // With other batches than the one before.
        deliver(&mut next, &story, 30, 3);
        assert_eq!(
            sums(&mut next, &story).ok(),
            Some(story.totals(30)),
            "{states:?}"
        );
    }
    assert!(cases >= 16 + 3, "{cases}");
    println!("CASES: files sinks that died while writing: {cases}");
}

#[test]
fn what_somebody_changed_is_named() {
    let story = Story::new(1, 30);
    let mut cases = 0;
    for name in {
        let directory = Dir::new();
        deliver(&mut files(&directory), &story, 30, 10);
        Dir::names(&of(&directory, &story))
    } {
        if name == "lock" {
            continue;
        }
        for change in 0..3 {
            let directory = Dir::new();
            deliver(&mut files(&directory), &story, 30, 10);
            let path = of(&directory, &story).join(&name);
            let mut bytes = fs::read(&path).expect("a file");
            let middle = bytes.len() / 2;
            match change {
                0 => bytes[middle] ^= 1,
                1 => bytes.truncate(middle),
                _ => bytes.clear(),
            }
            fs::write(&path, &bytes).expect("room");
            let error = sums(&mut files(&directory), &story).expect_err("it was changed");
            let text = error.to_string();
            assert!(
                text.contains(&path.display().to_string()) || name.contains("manifest"),
                "{text}"
            );
            assert!(
                text.contains("put the closed one back") || text.contains("UTF-8"),
                "{text}"
            );
            // Of the newest, before anything is added to it.
            if name.starts_with("00000000000000000020") {
                files(&directory)
                    .mark(&story.id, story.host)
                    .expect_err("it was changed");
            }
            cases += 1;
        }
    }
    // A manifest in the middle that is another one, and fits its own files.
    let (directory, other) = (Dir::new(), Dir::new());
    deliver(&mut files(&directory), &story, 30, 10);
    let mut liar = Story::new(1, 0);
    liar.window = 1_000;
    liar.grow(30);
    deliver(&mut files(&other), &liar, 30, 10);
    for name in Dir::names(&of(&other, &liar)) {
        if name.starts_with("00000000000000000010") {
            fs::copy(
                of(&other, &liar).join(&name),
                of(&directory, &story).join(&name),
            )
            .expect("a copy");
        }
    }
    let error = sums(&mut files(&directory), &story).expect_err("it was changed");
    assert!(error.to_string().contains("does not follow"), "{error}");
    // Files that are gone.
    for name in [
        "00000000000000000010.manifest.json",
        "00000000000000000010.jsonl",
    ] {
        let directory = Dir::new();
        deliver(&mut files(&directory), &story, 30, 10);
        fs::remove_file(of(&directory, &story).join(name)).expect("a file");
        sums(&mut files(&directory), &story).expect_err("it is gone");
    }
    println!("CASES: changed files of a files sink, each named: {cases}");
}

#[test]
fn copies_of_a_ledger_and_other_writers_are_refused() {
    let (directory, story) = (Dir::new(), Story::new(1, 20));
    let mut first = files(&directory);
    deliver(&mut first, &story, 20, 10);
    // The same windows in a ledger of another id.
    let copy = Story::new(2, 20);
    let mut second = files(&directory);
    assert_eq!(second.mark(&copy.id, copy.host).ok(), Some(Mark::NONE));
    let error = second.deliver(&copy.batch(0, 10)).expect_err("a copy");
    assert!(matches!(error, SinkError::Fork(_)), "{error}");
    assert_eq!(second.mark(&copy.id, copy.host).ok(), Some(Mark::NONE));
    second.fork(&copy.id, copy.host, "it").expect("room");
    second.fork(&copy.id, copy.host, "it").expect("room");
    let told = fs::read_to_string(directory.0.join("forks.jsonl")).expect("alarms");
    assert_eq!(told.lines().count(), 1);
    // The one that follows it, on the same registers.
    let mut follows = Story::new(3, 0);
    follows.window = 100;
    follows.grow(20);
    deliver(&mut second, &follows, 20, 7);
    assert_eq!(sums(&mut second, &follows).ok(), Some(follows.totals(20)));
    // Another host's of the same id.
    let error = second.mark(&story.id, "another").expect_err("another host");
    assert!(matches!(error, SinkError::Fork(_)), "{error}");
    // Another process that has the lock, and one that read before somebody wrote.
    let grown = Story::new(1, 40);
    let mut late = files(&directory);
    late.mark(&grown.id, grown.host).expect("a mark");
    let error = late.deliver(&grown.batch(20, 30)).expect_err("locked");
    assert!(error.to_string().contains("another process"), "{error}");
    deliver(&mut first, &grown, 30, 10);
    drop(first);
    let error = late.deliver(&grown.batch(20, 40)).expect_err("it moved");
    assert!(matches!(error, SinkError::Unavailable(_)), "{error}");
    deliver(&mut late, &grown, 40, 10);
    assert_eq!(sums(&mut late, &grown).ok(), Some(grown.totals(40)));
    // A disk that is not mounted.
    let mut nowhere = Files::new(Target {
        directory: directory.0.join("not-mounted"),
        parquet: false,
    });
    let error = nowhere
        .mark(&story.id, story.host)
        .expect_err("no directory");
    assert!(error.to_string().contains("mount its disk"), "{error}");
    assert!(!directory.0.join("not-mounted").exists());
}

#[test]
fn parquet_is_closed_with_the_others_cleared_away_with_them_and_named_when_it_is_changed() {
    let (directory, story) = (Dir::new(), Story::new(1, 30));
    let open = || {
        Files::new(Target {
            directory: directory.0.clone(),
            parquet: true,
        })
    };
    deliver(&mut open(), &story, 20, 10);
    let at = of(&directory, &story);
    // Of a writer that died before its manifest.
    let left = [
        "00000000000000000020.parquet",
        "00000000000000000025.parquet",
        "00000000000000000020.parquet.tmp",
    ];
    for name in left {
        fs::write(at.join(name), "PAR1").expect("room");
    }
    deliver(&mut open(), &story, 30, 10);
    let names = Dir::names(&at);
    let closed: Vec<&String> = names
        .iter()
        .filter(|name| name.contains(".parquet"))
        .collect();
    assert_eq!(
        closed,
        [
            "00000000000000000000.parquet",
            "00000000000000000010.parquet",
            "00000000000000000020.parquet",
        ]
    );
    assert_eq!(sums(&mut open(), &story).ok(), Some(story.totals(30)));
    // Whoever asks for none any more goes on from there.
    let grown = Story::new(1, 40);
    deliver(&mut files(&directory), &grown, 40, 10);
    assert_eq!(sums(&mut open(), &grown).ok(), Some(grown.totals(40)));
    for name in closed {
        let path = at.join(name);
        let whole = fs::read(&path).expect("a file");
        assert!(
            whole.starts_with(b"PAR1") && whole.ends_with(b"PAR1"),
            "{name}"
        );
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(&path, &changed).expect("room");
        let error = sums(&mut open(), &grown).expect_err("it was changed");
        assert!(error.to_string().contains(name.as_str()), "{error}");
        fs::write(&path, &whole).expect("room");
    }
}
