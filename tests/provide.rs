//! Encryption that the hosts provide: two hosts, each with its own daemon, a wire between them, and a tenant's overlay by VXLAN
//! over the kernel's WireGuard. Runs where the kernel has WireGuard: under QEMU on Debian's.

mod support;

use anyhow::{Context as _, Result, ensure};
use dataplane::provide::{Providing, Side};
use octroi::{
    daemon::control::Request,
    lab::{
        Site,
        frames::RawSocket,
        site::{INSIDE, UPLINK, ipv4, mac, mac_text},
        traffic::inside,
    },
};
use std::{
    cell::RefCell,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi, tenant};

const CANARY: &[u8] = b"canary-7c1e94";
/// The wire's interface on each host.
const WIRE: &str = "wan0";
/// Underlay addresses, which nothing but the overlay is sent to.
const UNDERLAY: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
/// Addresses on the wire.
const OUTSIDE: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const PORT: u16 = 51_820;

struct Hosts {
    sites: [Site; 2],
    sniffer: RawSocket,
    /// The keys that each host was told last.
    told: RefCell<[[Option<String>; 2]; 2]>,
}

/// What a sniffer on the wire saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    canaries: u64,
    overlays: u64,
    /// UDP of the tunnel.
    tunnel: u64,
}

impl Hosts {
    fn new(test: &str) -> Result<Option<Self>> {
        if !can_run(test) {
            return Ok(None);
        }
        // The tenant's two guests, at places of their own: the second host's first place stays empty.
        let first = Site::named(&[tenant("a", false)], "one")?;
        let second = Site::named(&[tenant("pad", false), tenant("a", false)], "two")?;
        if first
            .host
            .command("ip link add try type wireguard")
            .is_err()
        {
            println!("SKIPPED: {test}: this kernel has no WireGuard");
            return Ok(None);
        }
        first.host.command("ip link del try")?;
        first.host.command(&format!(
            "ip link add {WIRE} type veth peer name {WIRE} netns {}",
            second.host.name()
        ))?;
        for (number, site) in [&first, &second].into_iter().enumerate() {
            let guest = &site.tenants[number];
            let other = mac_text(mac(2 - number));
            for line in [
                format!("ip addr add {}/24 dev {WIRE}", OUTSIDE[number]),
                format!("ip link set {WIRE} up"),
                format!(
                    "ip link add ov0 type vxlan id 7 local {} remote {} dstport 4789",
                    UNDERLAY[number],
                    UNDERLAY[1 - number]
                ),
                "ip link set ov0 mtu 1370 master br0 up".into(),
                "bridge link set dev ov0 learning off flood off".into(),
                format!("bridge fdb replace {other} dev ov0 master static"),
            ] {
                site.host.command(&line)?;
            }
            guest.command(&format!(
                "ip neigh replace {} lladdr {other} dev {INSIDE}",
                ipv4(2 - number)
            ))?;
        }
        let index = first.host.interfaces()?.get(WIRE).context("no wire")?.index;
        let sniffer = first.host.run(|| {
            let mut socket = RawSocket::open(index)?;
            socket.listen()?;
            anyhow::Ok(socket)
        })??;
        let mut hosts = Self {
            sites: [first, second],
            sniffer,
            told: RefCell::default(),
        };
        for number in 0..2 {
            let config = hosts.config(number, &[None, None]);
            hosts.sites[number].write_config(&config)?;
            hosts.sites[number].start(octroi())?;
        }
        Ok(Some(hosts))
    }

    /// The configuration of a host that knows these keys of the other.
    fn config(&self, number: usize, keys: &[Option<String>; 2]) -> String {
        let uplink = format!("[[uplink]]\ninterface = \"{UPLINK}\"\n");
        let both = format!(
            "[[uplink]]\ninterface = \"{WIRE}\"\nclear_overlays = \"drop\"\n\n{uplink}clear_overlays = \"drop\"\n"
        );
        let keys = keys.each_ref().map(|key| key.clone().unwrap_or_default());
        let config = self.sites[number].config("trusted_interfaces = [\"ov0\"]");
        config.replacen(&uplink, &both, 1)
            + &format!(
                "\n[[provide]]\nname = \"fabric\"\ndevice = \"octf\"\nlisten_port = {PORT}\naddress = \"{}\"\n\
                 rotate = \"60s\"\n\n[[provide.peers]]\nname = \"other\"\nendpoint = \"{}:{PORT}\"\n\
                 addresses = [\"{}\"]\nkeys = [\"{}\", \"{}\"]\n",
                UNDERLAY[number],
                OUTSIDE[1 - number],
                UNDERLAY[1 - number],
                keys[0],
                keys[1]
            )
    }

    fn provided(&self, number: usize) -> Result<Providing> {
        let provided = self.sites[number].report()?.provided;
        provided.into_iter().next().context("nothing is provided")
    }

    /// What an operator's machinery does: each host is told the other's keys when they are others than it knows.
    fn exchange(&self) -> Result<()> {
        for number in 0..2 {
            let sides = self.provided(1 - number)?.sides;
            ensure!(sides.len() == 2, "{sides:?}");
            let keys = [0, 1].map(|at: usize| Some(sides[at].public_key.to_string()));
            if self.told.borrow()[number] == keys {
                continue;
            }
            let config = self.config(number, &keys);
            self.sites[number].write_config(&config)?;
            let begun = Instant::now();
            self.sites[number].ask(&Request::Apply { config })?;
            println!(
                "host {number} was told keys in {} ms",
                begun.elapsed().as_millis()
            );
            self.told.borrow_mut()[number] = keys;
        }
        Ok(())
    }

    fn seen(&mut self) -> Seen {
        std::thread::sleep(Duration::from_millis(300));
        let mut room = vec![0; 1 << 17];
        let mut seen = Seen::default();
        while let Some(frame) = self.sniffer.receive(&mut room) {
            seen.canaries += u64::from(frame.windows(CANARY.len()).any(|part| part == CANARY));
            // Ethernet, IPv4 without options, UDP.
            if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) {
                let to = frame
                    .get(36..38)
                    .map_or(0, |to| u16::from(to[0]) << 8 | u16::from(to[1]));
                seen.overlays += u64::from(to == 4_789);
                seen.tunnel += u64::from((PORT..PORT + 2).contains(&to));
            }
        }
        seen
    }

    fn dropped(&self, number: usize) -> Result<u64> {
        let report = self.sites[number].report()?;
        let uplinks = report.uplinks.iter();
        let mut wire = uplinks.filter(|uplink| uplink.interface == WIRE);
        let reason = dataplane_common::reason::DropReason::ClearOverlay;
        Ok(wire
            .next()
            .context("no uplink")?
            .leaving
            .dropped_for(reason)
            .packets)
    }
}

/// Waits for it; 5 minutes at most, for an emulated machine is slow. What the hosts know then is in the error.
fn soon(hosts: &Hosts, what: &str, is: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        if is()? {
            println!("{what}: after {} s", begun.elapsed().as_secs());
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    let known = [0, 1].map(|number| (hosts.provided(number), hosts.sites[number].log()));
    anyhow::bail!("{what}: not in 300 s: {known:#?}")
}

/// One guest that says the canary with a number, and one that counts.
struct Talk {
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Talk {
    fn start(hosts: &Hosts) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Arc::new(AtomicBool::new(false));
        let (sent, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let to = format!("{}:4000", ipv4(2));
        let socket = hosts.sites[1].tenants[1].run(|| UdpSocket::bind("0.0.0.0:4000"))??;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let (stopped, count) = (stop.clone(), heard.clone());
        let listens = std::thread::spawn(move || {
            let mut room = [0; 2_048];
            while !stopped.load(Relaxed) {
                if socket.recv(&mut room).is_ok() {
                    count.fetch_add(1, Relaxed);
                }
            }
            Ok(())
        });
        let (stopped, paused, count) = (stop.clone(), pause.clone(), sent.clone());
        let says = inside(hosts.sites[0].tenants[0].open()?, move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            while !stopped.load(Relaxed) {
                if !paused.load(Relaxed) && socket.send_to(CANARY, &to).is_ok() {
                    count.fetch_add(1, Relaxed);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        Ok(Self {
            stop,
            pause,
            sent,
            heard,
            threads: vec![listens, says],
        })
    }

    /// Sent and heard by now, when nothing is on its way.
    fn read(&self) -> (u64, u64) {
        self.pause.store(true, Relaxed);
        std::thread::sleep(Duration::from_millis(700));
        let read = (self.sent.load(Relaxed), self.heard.load(Relaxed));
        self.pause.store(false, Relaxed);
        read
    }

    /// Sent and heard meanwhile.
    fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
        let before = self.read();
        work()?;
        let after = self.read();
        Ok((after.0 - before.0, after.1 - before.1))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_tenants_overlay_goes_through_wireguard_or_nowhere() -> Result<()> {
    const TEST: &str = "a_tenants_overlay_goes_through_wireguard_or_nowhere";
    let _alone = alone();
    let Some(mut hosts) = Hosts::new(TEST)? else {
        return Ok(());
    };
    let talk = Talk::start(&hosts)?;

    // Nobody knows anybody's key.
    let (sent, heard) = talk.during(|| {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    ensure!(
        sent > 20 && heard == 0,
        "without keys: {sent} sent, {heard} heard"
    );
    ensure!(
        hosts.seen() == Seen::default(),
        "something of it is on the wire"
    );

    hosts.exchange()?;
    soon(&hosts, "both hosts hear each other", || {
        let heard =
            |number| Ok::<_, anyhow::Error>(hosts.provided(number)?.peers[0].evidence == "E4");
        Ok(heard(0)? && heard(1)?)
    })?;
    hosts.seen();
    let (sent, heard) = talk.during(|| {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    ensure!(
        heard * 10 > sent * 9 && sent > 20,
        "through the tunnel: {sent} sent, {heard} heard"
    );
    let seen = hosts.seen();
    ensure!(
        seen.canaries == 0 && seen.overlays == 0 && seen.tunnel > 20,
        "{seen:?}"
    );
    println!("through the tunnel: {sent} sent, {heard} heard; on the wire: {seen:?}");

    // Two turns under traffic: the side changes, the one that carried before gets a new key, which is told, and carries again by it;
    // nothing is lost. Keys are told as they are drawn: a host that is not told is left alone on the side whose key is known.
    let carries = |hosts: &Hosts| Ok::<_, anyhow::Error>(hosts.provided(0)?.peers[0].carries);
    let keys = |hosts: &Hosts, number| {
        let sides = hosts.provided(number)?.sides;
        Ok::<_, anyhow::Error>(sides.iter().map(|side| side.public_key).collect::<Vec<_>>())
    };
    let (first, before) = (carries(&hosts)?, [keys(&hosts, 0)?, keys(&hosts, 1)?]);
    let of_first = first.context("nothing carries")? as usize;
    let (sent, heard) = talk.during(|| {
        soon(&hosts, "the other side carries", || {
            hosts.exchange()?;
            Ok(carries(&hosts)? != first)
        })?;
        soon(&hosts, "a key is drawn anew on each host", || {
            hosts.exchange()?;
            let drawn = |number: usize| {
                let now = keys(&hosts, number)?;
                Ok::<_, anyhow::Error>(now[of_first] != before[number][of_first])
            };
            Ok(drawn(0)? && drawn(1)?)
        })?;
        soon(&hosts, "the first side carries again", || {
            hosts.exchange()?;
            Ok(carries(&hosts)? == first)
        })
    })?;
    ensure!(
        sent == heard,
        "{sent} sent, {heard} heard through a rotation"
    );
    let seen = hosts.seen();
    ensure!(seen.canaries == 0 && seen.overlays == 0, "{seen:?}");
    println!("through a rotation: {sent} sent, {heard} heard");

    // Nobody is told the next keys: what leaves stays on the side whose key is known, into the middle of the other one's turn.
    let before = [keys(&hosts, 0)?, keys(&hosts, 1)?];
    let (sent, heard) = talk.during(|| {
        soon(&hosts, "a key is drawn that nobody is told", || {
            let drawn = |number: usize| {
                let now = keys(&hosts, number)?;
                Ok::<_, anyhow::Error>(now[1 - of_first] != before[number][1 - of_first])
            };
            Ok(drawn(0)? && drawn(1)?)
        })?;
        std::thread::sleep(Duration::from_secs(60));
        ensure!(
            carries(&hosts)? == first,
            "it follows a key that nobody knows"
        );
        Ok(())
    })?;
    ensure!(
        sent == heard,
        "{sent} sent, {heard} heard while a key was not told"
    );
    println!("while a key was not told: {sent} sent, {heard} heard");

    // The daemons are killed: the kernel goes on.
    for site in &mut hosts.sites {
        site.kill()?;
    }
    let (sent, heard) = talk.during(|| {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    ensure!(
        sent == heard && sent > 20,
        "without daemons: {sent} sent, {heard} heard"
    );

    // Somebody deletes both devices: nothing leaves in clear, nor when the route that leads nowhere goes, too.
    hosts.seen();
    let host = &hosts.sites[0].host;
    for side in [Side::A, Side::B] {
        host.command(&format!("ip link del octf{}", side.letter()))?;
    }
    let (sent, heard) = talk.during(|| {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    ensure!(
        sent > 20 && heard == 0,
        "without devices: {sent} sent, {heard} heard"
    );
    let seen = hosts.seen();
    ensure!(
        seen.canaries == 0 && seen.overlays == 0,
        "without devices: {seen:?}"
    );
    let host = &hosts.sites[0].host;
    host.command(&format!("ip route del blackhole {}", UNDERLAY[1]))?;
    host.command(&format!("ip addr add {}/32 dev lo", UNDERLAY[0]))?;
    host.command(&format!("ip route add {} via {}", UNDERLAY[1], OUTSIDE[1]))?;
    std::thread::sleep(Duration::from_secs(2));
    let seen = hosts.seen();
    ensure!(
        seen.canaries == 0 && seen.overlays == 0,
        "with a route past the tunnel: {seen:?}"
    );
    let pinned =
        dataplane::gate::read_pinned(&dataplane::pins::Pins::new(&hosts.sites[0].pin_dir()))?;
    let reason = dataplane_common::reason::DropReason::ClearOverlay;
    let dropped: u64 = pinned
        .uplinks
        .iter()
        .map(|uplink| uplink.leaving.dropped_for(reason).packets)
        .sum();
    ensure!(dropped > 20, "the guard counted {dropped}");

    // The daemons repair it, with new keys, which are told.
    let host = &hosts.sites[0].host;
    host.command(&format!("ip route del {} via {}", UNDERLAY[1], OUTSIDE[1]))?;
    for site in &mut hosts.sites {
        site.start(octroi())?;
    }
    hosts.exchange()?;
    soon(&hosts, "it goes through the tunnel again", || {
        let before = talk.heard.load(Relaxed);
        std::thread::sleep(Duration::from_millis(500));
        Ok(talk.heard.load(Relaxed) > before)
    })?;
    let seen = hosts.seen();
    ensure!(seen.canaries == 0 && seen.overlays == 0, "{seen:?}");
    ensure!(hosts.dropped(0)? >= dropped);
    let log = hosts.sites[0].log();
    ensure!(log.contains("has a new key"), "{log}");
    println!("CASES: an overlay through WireGuard, or nowhere: 8");
    Ok(())
}
