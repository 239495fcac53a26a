//! Where records go: a legal sink of each kind.

use crate::config::tests::Random;
use metering::sink::{Target, clickhouse, cloudevents, files, ipfix, lago, nats, postgres};
use std::path::PathBuf;

/// One of them; `number` names it apart from the others.
pub(super) fn target(random: &mut Random, number: usize) -> Target {
    let mut file = |name: &str| random.one_in(2).then(|| PathBuf::from(name));
    let (secret, ca_file) = (file("/etc/octroi/p w"), file("/etc/octroi/ca.pem"));
    match random.below(7) {
        0 => Target::Postgres(postgres::Target {
            url: "host=/run/postgresql dbname='metering and \"more\"'".into(),
            password_file: secret,
            ca_file,
        }),
        1 => Target::Files(files::Target {
            directory: format!("/a 'b/\"ü\"/{number}").into(),
            parquet: random.one_in(2),
        }),
        2 => {
            let (scheme, user) = (
                if ca_file.is_some() { "tls" } else { "nats" },
                if secret.is_some() && number == 0 {
                    "octroi@"
                } else {
                    ""
                },
            );
            Target::Nats(nats::Target {
                url: format!("{scheme}://{user}localhost:4222, {scheme}://{user}[::1]"),
                stream: (*random.pick(&["octroi", "a-B_9"])).into(),
                replicas: *random.pick(&[None, Some(1), Some(3), Some(5)]),
                token_file: secret.clone().filter(|_| user.is_empty()),
                password_file: secret.filter(|_| !user.is_empty()),
                ca_file,
            })
        }
        3 => Target::ClickHouse(clickhouse::Target {
            url: match (&ca_file, &secret) {
                (Some(_), Some(_)) => "https://a.b-c@clickhouse.example/_metering_2",
                (Some(_), None) => "https://clickhouse.example:8443",
                (None, Some(_)) => "http://octroi@localhost:8123",
                (None, None) => "http://127.0.0.1/a",
            }
            .into(),
            password_file: secret,
            ca_file,
        }),
        4 => Target::Lago(lago::Target {
            url: match ca_file {
                Some(_) => "https://lago.example/sub",
                None => "http://[::1]:3000",
            }
            .into(),
            token_file: secret.unwrap_or("/t \"".into()),
            ca_file,
            code: (*random.pick(&["octroi_bytes", "é\"'"])).into(),
            subscriptions: (1..=1 + random.below(3) as u32)
                .map(|tenant| format!("{tenant} sub_\"{tenant}'").parse().expect("one"))
                .collect(),
        }),
        5 => Target::Ipfix(ipfix::Target {
            url: match ca_file {
                Some(_) => "tls://collector.example",
                None => "udp://[::1]:4739",
            }
            .into(),
            domain: 1 + random.below(u32::MAX as usize) as u32,
            in_clear: random.one_in(2),
            ca_file,
        }),
        _ => Target::CloudEvents(cloudevents::Target {
            url: match ca_file {
                Some(_) => "https://[2001:db8::1]:8443/api?x=%20",
                None => "http://localhost/events",
            }
            .into(),
            token_file: secret,
            ca_file,
        }),
    }
}
