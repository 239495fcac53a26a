//! README and the how-to pages: each command in them is run, and each configuration is one.
//!
//! The commands of the README stand for a host of its configuration, with PostgreSQL and a service of CloudEvents behind its
//! sinks; they are run in their order, in one shell, on such a host. What a block says stands as it is, but for
//! [`EDITS`]. What cannot be run there is run by the test that [`ELSEWHERE`] names. `docs/TUTORIAL.md` has `--test tutorial`,
//! blocks of SQL `--test clickhouse` and `--test fleet`.

#[path = "pages/blocks.rs"]
mod blocks;
#[path = "delivery/database.rs"]
#[allow(dead_code, reason = "written for tests/delivery.rs")]
mod database;
#[path = "events/fake.rs"]
#[allow(dead_code, reason = "written for tests/events.rs")]
mod fake;
#[path = "pages/shell.rs"]
mod shell;
mod support;

use anyhow::{Context as _, Result, ensure};
use blocks::{blocks, commands};
use database::Database;
use fake::Service;
use octroi::lab::namespace::Namespace;
use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use support::{alone, can_run, octroi};

/// What the test writes instead of what stands in README's configuration and commands, and why.
const EDITS: [(&str, &str, &str); 4] = [
    ("\"60s\"", "\"1s\"", "nobody waits for a minute"),
    (
        "--seq 4711",
        "--seq $(octroi records --tenant 17 | awk '$7 == 4 && $9 > 2000 { print $1; exit }')",
        "there are not so many records",
    ),
    ("2026-11", "$(date -u +%Y-%m)", "the month that it is"),
    (
        "read = [\"octroi-read\"]",
        "read = [\"octroi-read\", \"cert:reader.example\"]\nlisten = \"127.0.0.1:8443\"\n\
         certificate = \"/etc/octroi/api.pem\"\nkey = \"/etc/octroi/api.key\"\n\
         client_ca = \"/etc/octroi/ca.pem\"",
        "another machine connects, too",
    ),
];

/// Beginnings of commands that are run by another test, and where that is seen.
const ELSEWHERE: [(&str, &str, &str); 11] = [
    ("cargo xtask demo", "xtask/src/test.rs", "fn run_demo_in_vm"),
    ("cargo xtask test", ".ci/run", "cargo xtask test"),
    ("octroi demo", "xtask/src/test.rs", "fn run_demo_in_vm"),
    (
        "octroi store",
        "tests/clickhouse/fleet.rs",
        "\"store\", \"--from\"",
    ),
    ("cargo xtask deb", "tests/package.rs", "\"deb\""),
    ("apt ", "tests/package/user.rs", "block_with"),
    ("systemctl ", "tests/package/user.rs", "block_with"),
    (
        "echo octroi octroi/purge-state",
        "tests/package.rs",
        "block_with(\"apt purge\")",
    ),
    (
        "chgrp octroi",
        "tests/package/user.rs",
        "block_with(\"check --access\")",
    ),
    (
        "chown -R octroi",
        "tests/package/user.rs",
        "block_with(\"check --access\")",
    ),
    (
        "runuser -u octroi",
        "tests/package/user.rs",
        "block_with(\"check --access\")",
    ),
];

/// What some commands have to say, whatever else they do.
const SAY: [(&str, &str); 12] = [
    ("octroi check octroi.toml", "no mistake"),
    ("octroi status", "acme-vm1"),
    ("octroi records", "acme-vm1"),
    ("octroi usage", "95th percentile of tenant 17"),
    ("octroi explain", "acme-vm1"),
    ("octroi sinks", "billing"),
    ("octroi metrics", "octroi_"),
    ("octroi verify", "verified"),
    ("octroi import libvirt", "ports added"),
    ("octroi import neutron", "ports added"),
    ("nfdump", "10.0.0.0"),
    ("curl --cert", "acme-vm1"),
];

/// A page, by its path below the repository.
fn page(path: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).with_context(|| path.to_owned())
}

/// README and every page in `docs`, without the decisions.
fn pages() -> Result<Vec<String>> {
    let mut found = vec!["README.md".to_owned()];
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    found.sort();
    Ok(found)
}

fn edited(text: &str) -> String {
    EDITS.iter().fold(text.to_owned(), |text, (old, new, _)| {
        text.replace(old, new)
    })
}

/// The configuration that README shows, with a second sink, for which a command there asks.
fn configuration(events: &str) -> Result<String> {
    let shown = blocks(&page("README.md")?)?;
    let shown = shown.into_iter().find(|block| block.language == "toml");
    let shown = shown.context("README shows no configuration")?.text;
    Ok(format!(
        "{}\n[[sink]]\nname = \"events\"\nkind = \"cloudevents\"\nurl = \"{events}\"\n\
         [[sink]]\nname = \"flows\"\nkind = \"ipfix\"\nurl = \"udp://127.0.0.1:4739\"\n",
        edited(&shown)
    ))
}

/// A command, and the page that it is of.
#[derive(Debug)]
struct Shown {
    at: String,
    command: String,
}

/// The commands to run in their order, and how many are run by other tests.
fn shown() -> Result<(Vec<Shown>, usize)> {
    let mut found = Vec::new();
    let mut elsewhere = 0;
    for name in ["docs/IPFIX.md", "docs/INSTALL.md", "README.md"] {
        for block in blocks(&page(name)?)?
            .iter()
            .filter(|block| block.language == "sh")
        {
            for command in commands(&block.text) {
                let other = ELSEWHERE
                    .iter()
                    .find(|(begin, _, _)| command.starts_with(begin));
                if let Some((_, test, needle)) = other {
                    ensure!(
                        page(test)?.contains(needle),
                        "{command}: not seen in {test}"
                    );
                    elsewhere += 1;
                    continue;
                }
                found.push(Shown {
                    at: format!("{name}:{}", block.line),
                    command,
                });
            }
        }
    }
    // A collector is there before its exporter, its files are read once it has some, and taking everything away is last.
    found.sort_by_key(
        |shown| match shown.command.split(' ').collect::<Vec<_>>()[..2] {
            ["nfcapd", _] => 0,
            ["nfdump", _] => 2,
            ["octroi", "detach"] => 3,
            _ => 1,
        },
    );
    Ok((found, elsewhere))
}

/// What is typed: a daemon is put into the background, a screen is looked at and left.
fn typed(command: &str) -> String {
    let command = edited(command);
    let (line, _) = command.split_once("  #").unwrap_or((&command, ""));
    if line.starts_with("octroi run ") {
        format!(
            "{line} 2> octroi.log & OCTROI=$!\nuntil grep -q ready octroi.log; do kill -0 $OCTROI || {{ cat octroi.log; exit; }}; sleep 0.1; done\n\
             ip netns exec vm1 ping -c 200 -i 0.01 -q 10.0.0.1; sleep 3"
        )
    } else if line.starts_with("octroi top") {
        format!("(sleep 2; printf q) | TERM=xterm timeout 20 script -qec '{line}' /dev/null")
    } else if line.starts_with("nfcapd ") {
        format!(
            "{line} > nfcapd.log 2>&1 & NFCAPD=$!\nsleep 1; kill -0 $NFCAPD || {{ cat nfcapd.log; exit; }}"
        )
    } else if line.starts_with("nfdump ") {
        // It turns its file over every five minutes, and when it ends.
        format!("kill $NFCAPD; wait $NFCAPD\n{line}")
    } else if line.starts_with("octroi detach") {
        format!("kill $OCTROI; wait $OCTROI\n{line}")
    } else {
        command
    }
}

/// What the reader has: the configuration, certificates, what a cloud says of its guests.
const READY: &str = r#"cp "$WORK/octroi.toml" . && cp "$WORK/octroi.toml" /etc/octroi/
cp "$REPOSITORY/tests/fixtures/import/nova-guest.xml" vm1.xml
cp "$REPOSITORY/tests/fixtures/import/plain-guest.xml" web2.xml
cp "$REPOSITORY/tests/fixtures/import/neutron-api.json" ports.json
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$2" "${@:3}" -keyout $1.key -out $1.pem 2> /dev/null
}
certificate ca authority -addext basicConstraints=critical,CA:TRUE
for name in api c; do
    certificate $name $name -CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE \
        -addext subjectAltName=DNS:host.example,IP:127.0.0.1,DNS:reader.example
done
cp api.pem api.key ca.pem /etc/octroi/
# libvirt's own driver for tests: its XML is what virsh prints of a guest that runs.
cat > guest.xml <<'END'
<domain type='test'>
  <name>web1</name><memory>8192</memory><os><type>hvm</type></os>
  <metadata><octroi:tenant xmlns:octroi="urn:octroi:libvirt:1">initech</octroi:tenant></metadata>
  <devices>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:07'/><source bridge='br0'/>
      <filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.7'/></filterref>
    </interface>
  </devices>
</domain>
END
echo "<node><domain file='guest.xml'/></node>" > node.xml
export VIRSH_DEFAULT_CONNECT_URI=test://$PWD/node.xml"#;

/// A directory that goes with the test.
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("octroi-pages-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a script in the namespace; all that was printed.
fn run(host: &Namespace, work: &Work, database: &Database, script: &str) -> Result<String> {
    let file = work.0.join("script");
    fs::write(&file, script)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let own = octroi().parent().context("octroi has a directory")?;
    let mut shell = host.prepare("timeout".as_ref())?;
    let output = shell
        .args([
            "--kill-after=5",
            "240",
            "unshare",
            "--mount",
            // nfcapd keeps books in shared memory.
            "--ipc",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "bash"])
        .arg(&file)
        .env("PATH", format!("{}:{path}", own.display()))
        .env("WORK", &work.0)
        .env("DATABASE", &database.directory)
        .env("REPOSITORY", env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_command_of_readme_and_how_to_pages_is_run() -> Result<()> {
    const NAME: &str = "every_command_of_readme_and_how_to_pages_is_run";
    let _alone = alone();
    if !can_run(NAME) {
        return Ok(());
    }
    for needed in ["unshare", "script", "virsh", "nfcapd", "curl", "openssl"] {
        if !Command::new("which").arg(needed).output()?.status.success() {
            println!("SKIPPED: {NAME}: there is no {needed}; `cargo xtask setup` installs it");
            return Ok(());
        }
    }
    if Database::programs().is_none() {
        println!("SKIPPED: {NAME}: there is no PostgreSQL; `cargo xtask setup` installs it");
        return Ok(());
    }
    let work = Work::new()?;
    let database = Database::new("pages")?;
    database.ask("CREATE ROLE root SUPERUSER LOGIN")?;
    database.ask("CREATE DATABASE metering OWNER root")?;
    let host = Namespace::new("pages")?;
    host.command("ip link set lo up")?;
    let service = Service::new(host.run(|| TcpListener::bind("127.0.0.1:0"))??, None)?;
    fs::write(work.0.join("octroi.toml"), configuration(&service.url)?)?;

    let (shown, elsewhere) = shown()?;
    ensure!(shown.len() > 30, "only {} commands", shown.len());
    let before = format!("{}\n{READY}", include_str!("pages/practice.sh"));
    let script = shell::script(&before, shown.iter().map(|shown| typed(&shown.command)));
    let output = run(&host, &work, &database, &script)?;
    let name = |shown: &Shown| format!("{}: `{}`", shown.at, shown.command);
    let names: Vec<String> = shown.iter().map(name).collect();
    let printed = shell::printed(&output, &names)?;
    let made = output.split(shell::MARK).next().unwrap_or_default();
    ensure!(!made.contains("rror"), "{output}");
    for (of, printed) in shown.iter().zip(&printed) {
        let said = SAY
            .iter()
            .filter(|(begin, _)| of.command.starts_with(begin));
        for (begin, words) in said {
            ensure!(
                printed.contains(words),
                "{}: `{begin}` does not say {words:?}:\n{printed}",
                of.at
            );
        }
    }
    ensure!(!service.state().events.is_empty(), "no event came");
    println!(
        "CASES: commands of README, INSTALL and IPFIX that were run: {}",
        printed.len()
    );
    println!("CASES: commands of theirs that other tests run: {elsewhere}");
    Ok(())
}

/// Each subcommand that octroi has is in README's list, and so was run.
#[test]
fn the_readme_shows_every_subcommand() -> Result<()> {
    let help = Command::new(octroi()).arg("--help").output()?;
    let help = String::from_utf8(help.stdout)?;
    let list = help.split("Commands:\n").nth(1).context("no commands")?;
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let names: BTreeSet<&str> = names
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let (shown, _) = shown()?;
    let tutorial = page("docs/TUTORIAL.md")?;
    let mut missing = Vec::new();
    for name in names.iter().filter(|name| **name != "help") {
        let begin = format!("octroi {name}");
        let is_there = shown.iter().any(|shown| shown.command.starts_with(&begin))
            || ELSEWHERE.iter().any(|(command, _, _)| *command == begin)
            || tutorial.lines().any(|line| line.starts_with(&begin));
        missing.extend((!is_there).then_some(*name));
    }
    ensure!(missing.is_empty(), "no page runs octroi {missing:?}");
    println!(
        "CASES: subcommands of octroi that a page runs: {}",
        names.len()
    );
    Ok(())
}

/// What a block leaves to the rest of the file: a host, its uplink, a tenant and a port, where it has none.
fn whole(block: &str) -> String {
    let mut whole = block.to_owned();
    let named = "[[tenant]]\nname = \"acme\"\nid = 17\n";
    let host = "[host]\nname = \"host-1\"\n";
    if block.contains("[host]\n") && !block.contains("[host]\nname") {
        whole = whole.replace("[host]\n", host);
    }
    if block.contains("[[tenant]]\nquota") {
        whole = whole.replace("[[tenant]]\n", named);
    }
    for (table, text) in [
        ("[host]", host),
        (
            "[meter]",
            "[meter]\nledger = \"/var/lib/octroi/ledger.db\"\n",
        ),
        (
            "[[uplink]]",
            "[[uplink]]\ninterface = \"eth0\"\ncapacity = \"10Gbit/s\"\n",
        ),
        ("[[tenant]]", named),
        (
            "[[port]]",
            "[[port]]\nname = \"vm1\"\ntenant = \"acme\"\ninterface = \"tap0\"\n\
             macs = [\"52:54:00:00:00:01\"]\naddresses = [\"10.0.0.5\"]\n",
        ),
    ] {
        if !block.lines().any(|line| line == table) {
            whole = format!("{whole}\n{text}");
        }
    }
    whole
}

#[test]
fn every_configuration_in_the_documentation_is_one() -> Result<()> {
    let mut seen = 0;
    for name in pages()? {
        for block in blocks(&page(&name)?)? {
            if block.language == "toml" {
                let at = format!("{name}:{}", block.line);
                octroi::config::parse(&whole(&block.text), &at).map_err(anyhow::Error::msg)?;
                seen += 1;
            }
        }
    }
    ensure!(seen >= 8, "{seen} blocks");
    println!("CASES: configurations in the documentation: {seen}");
    Ok(())
}

/// A new page with commands is not forgotten.
#[test]
fn no_page_has_commands_that_nobody_runs() -> Result<()> {
    let run = [
        "README.md",
        "docs/INSTALL.md",
        "docs/IPFIX.md",
        "docs/TUTORIAL.md",
    ];
    for name in pages()? {
        for block in blocks(&page(&name)?)? {
            let is_run = run.contains(&name.as_str())
                || !["sh", "bash", "console"].contains(&block.language.as_str());
            ensure!(is_run, "{name}:{}: who runs this?", block.line);
        }
    }
    Ok(())
}
