//! The encryption policy between real ends, through the loaded programs: OpenSSH, QUIC, DTLS, WireGuard, PostgreSQL,
//! SMTP, and TLS in its less usual forms. Nothing that the rule allows is broken; the same under a rule that does not
//! allow it, and clear text on the same port, never reach the uplink.

#[path = "encryption_ends/place.rs"]
mod place;
#[path = "encryption_ends/quic.rs"]
mod quic;
#[path = "encryption/ends.rs"]
mod rustls_ends;
#[path = "encryption/sniffer.rs"]
mod sniffer;
#[path = "encryption_ends/ssh.rs"]
mod ssh;
#[path = "encryption_ends/starttls.rs"]
mod starttls;
mod support;
#[path = "encryption_ends/tls.rs"]
mod tls;
#[path = "encryption_ends/udp.rs"]
mod udp;
#[path = "encryption_ends/vpn.rs"]
mod vpn;

use anyhow::Result;
use place::Place;
use support::alone;

/// Runs `talk` on a site of its own.
fn on_a_site(test: &str, talk: fn(&mut Place) -> Result<()>) -> Result<()> {
    let _alone = alone();
    match Place::new(test)? {
        Some(mut place) => talk(&mut place),
        None => Ok(()),
    }
}

#[test]
fn openssh_passes_with_every_key_exchange_and_new_keys() -> Result<()> {
    on_a_site("openssh_passes", ssh::passes)
}

#[test]
fn quic_passes_in_both_versions() -> Result<()> {
    on_a_site("quic_passes", udp::quic_passes)
}

#[test]
fn dtls_passes_and_its_old_version_does_not() -> Result<()> {
    on_a_site("dtls_passes", udp::dtls_passes)
}

#[test]
fn wireguard_passes_through_new_handshakes() -> Result<()> {
    on_a_site("wireguard_passes", udp::wireguard_passes)
}

#[test]
fn openvpn_passes_by_its_shape() -> Result<()> {
    on_a_site("openvpn_passes", vpn::openvpn_passes)
}

#[test]
fn postgres_passes_with_tls_and_is_cut_without() -> Result<()> {
    on_a_site("postgres_passes", starttls::postgres_passes)
}

#[test]
fn mail_passes_with_starttls_and_is_cut_without() -> Result<()> {
    on_a_site("mail_passes", starttls::smtp_passes)
}

#[test]
fn retries_and_sessions_pass_and_early_data_does_not() -> Result<()> {
    on_a_site("hellos_pass", tls::hellos_pass)
}

#[test]
fn bulk_of_curl_passes() -> Result<()> {
    on_a_site("curl_passes", tls::curl_passes)
}

#[test]
fn a_hybrid_group_passes_where_it_is_listed() -> Result<()> {
    on_a_site("post_quantum_passes", tls::post_quantum_passes)
}
