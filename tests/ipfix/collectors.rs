//! Collectors of Debian, and what they say that they have.

use anyhow::{Context as _, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Flows, packets and bytes by tenant, and whether the tenant sent them.
pub type Totals = BTreeMap<(u32, bool), [u64; 3]>;

pub fn is_here(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

/// A program that ends with this value.
pub struct Running(pub Child);

impl Running {
    /// Ends it as a service is ended, and waits until it wrote what it had.
    pub fn end(mut self, signal: libc::c_int) -> Result<()> {
        let pid = libc::pid_t::try_from(self.0.id())?;
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(pid, signal) };
        let begun = Instant::now();
        while self.0.try_wait()?.is_none() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is bound to a UDP port of this process' namespace, or of the one that `look` runs `ss` in.
fn listens(mut look: impl FnMut() -> Command, port: u16) -> Result<()> {
    let begun = Instant::now();
    loop {
        let sockets = look().args(["-Hlun"]).output()?;
        if String::from_utf8_lossy(&sockets.stdout).contains(&format!(":{port} ")) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "nobody listens on {port}"
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// `nfcapd`, that writes to a directory. `command`: makes one that runs in the right namespace.
pub fn nfcapd(
    command: impl Fn(&str) -> Result<Command>,
    directory: &Path,
    port: u16,
) -> Result<Running> {
    let child = command("nfcapd")?
        .args([
            "-b",
            "127.0.0.1",
            "-t",
            "3600",
            "-p",
            &port.to_string(),
            "-w",
        ])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("nfcapd")?;
    let running = Running(child);
    listens(|| command("ss").expect("ss"), port)?;
    Ok(running)
}

/// What `nfdump` reads in the directory of an `nfcapd` that has ended.
pub fn nfdump(directory: &Path) -> Result<(Totals, String)> {
    let output = Command::new("nfdump")
        .args([
            "-q",
            "-N",
            "-o",
            "fmt:%ivrf;%evrf;%fl;%pkt;%byt;%dir;%pr;%sa;%da;%opid",
            "-R",
        ])
        .arg(directory)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}");
    let mut totals = Totals::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(';').map(str::trim).collect();
        ensure!(fields.len() == 10, "{line}");
        let number = |at: usize| fields[at].parse::<u64>().with_context(|| line.to_owned());
        let (from, to) = (number(0)?, number(1)?);
        ensure!((from == 0) != (to == 0), "{line}");
        // The direction that it shows is that of the tenant.
        ensure!(fields[5] == if from != 0 { "I" } else { "E" }, "{line}");
        add(
            &mut totals,
            (from.max(to) as u32, from != 0),
            [number(2)?, number(3)?, number(4)?],
        );
    }
    Ok((totals, text))
}

pub fn add(totals: &mut Totals, key: (u32, bool), more: [u64; 3]) {
    let sums = totals.entry(key).or_default();
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

/// pmacct's `nfacctd`, that writes to a file in a directory.
pub fn nfacctd(directory: &Path, port: u16) -> Result<Running> {
    let primitives = directory.join("primitives");
    // The names are those of pmacct's own QUICKSTART.
    fs::write(
        &primitives,
        "name=vrf_id_ingress field_type=234 len=4 semantics=u_int\nname=vrf_id_egress field_type=235 len=4 semantics=u_int\n",
    )?;
    let config = directory.join("nfacctd.conf");
    let text = format!(
        "nfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nplugins: print\nprint_output: csv\nprint_output_separator: ;\n\
         print_output_file: {0}/flows\nprint_output_file_append: true\nprint_refresh_time: 1\n\
         aggregate: src_host, dst_host, proto, flows, vrf_id_ingress, vrf_id_egress\n\
         aggregate_primitives: {1}\nlogfile: {0}/log\n",
        directory.display(),
        primitives.display()
    );
    fs::write(&config, text)?;
    let child = Command::new("nfacctd")
        .arg("-f")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("nfacctd")?;
    let running = Running(child);
    listens(|| Command::new("ss"), port)?;
    // Its two processes are nearly ready when both have said so.
    let begun = Instant::now();
    loop {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        if log.contains("waiting for NetFlow/IPFIX data") && log.contains("cache entries=") {
            // What comes before its plugin waits for the first time stays between the two until more comes.
            std::thread::sleep(Duration::from_millis(1_500));
            return Ok(running);
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "{log}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// What it wrote so far.
pub fn pmacct(directory: &Path) -> Result<Totals> {
    let text = fs::read_to_string(directory.join("flows")).unwrap_or_default();
    let mut names: Vec<&str> = Vec::new();
    let mut totals = Totals::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(';').map(str::trim).collect();
        if fields.contains(&"PACKETS") {
            names = fields;
            continue;
        }
        let number = |name: &str| -> Result<u64> {
            let at = names
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name));
            let field = fields.get(at.with_context(|| format!("no {name}: {names:?}"))?);
            let field = field.with_context(|| line.to_owned())?;
            field.parse().with_context(|| format!("{name}: {line}"))
        };
        let (from, to) = (number("vrf_id_ingress")?, number("vrf_id_egress")?);
        let more = [number("flows")?, number("packets")?, number("bytes")?];
        add(&mut totals, (from.max(to) as u32, from != 0), more);
    }
    Ok(totals)
}
