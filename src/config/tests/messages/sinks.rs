//! Messages about sinks.

use super::host;

#[test]
fn a_sink_says_what_it_is_and_has_no_secret_in_its_address() {
    host(
        r##"
> [[sink]]
> name = "a"
> kind = "kafka"
> url = "host=/run/postgresql"
c.toml:3:1: a sink has no records without a ledger; add [meter]
c.toml:5:8: there is no sink of the kind `kafka`; write postgres or files or cloudevents or nats or clickhouse or lago or ipfix
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "postgres"
> url = "postgres://octroi:secret@localhost/metering"
c.toml:8:7: `url`: it has a password; write that into a file, and the file's name as `password_file`
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "postgres"
> url = "postgres://octroi@billing.example/metering"
c.toml:8:7: `url`: its host is another machine; write `ca_file`, the certificates to trust, so that records are not sent in clear
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "postgres"
> url = "host=/run/postgresql"
> [[sink]]
> name = "a"
> kind = "postgres"
> url = "dbname=metering"
c.toml:10:8: there are two sinks `a`; name one of them otherwise
c.toml:12:7: `url`: it names no host; write "postgres://octroi@billing.example/metering" or "host=/run/postgresql"
> [[sink]]
> nam = "a"
c.toml:3:1: [[sink]] has no `kind`; write kind = "postgres"
c.toml:3:1: [[sink]] has no `url`; write url = "postgres://octroi@billing.example/metering"
c.toml:3:1: a sink has no records without a ledger; add [meter]
c.toml:4:1: unknown key `nam` in [[sink]]; did you mean `name`? The keys are name, kind, url, stream, replicas, directory, parquet, password_file, token_file, ca_file, code, subscriptions, domain, in_clear
"##,
    );
}

#[test]
fn a_sink_has_the_keys_of_its_kind() {
    host(
        r##"
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "files"
> [[sink]]
> name = "b"
> kind = "files"
> directory = "/export"
> url = "http://localhost/"
> token_file = "/t"
> parquet = 1
> [[sink]]
> name = "c"
> kind = "files"
> directory = "/export"
> [[sink]]
> name = "d"
> kind = "files"
> directory = "export"
c.toml:5:1: sink `a` has no `directory`; write directory = "/var/lib/octroi/export"
c.toml:12:7: a sink of the kind files has no `url`; take it out
c.toml:13:14: a sink of the kind files has no `token_file`; take it out
c.toml:14:11: `parquet` is an integer; write parquet = true
c.toml:18:13: another sink writes there already; name another `directory`
c.toml:22:13: `export` is not absolute; start it with `/`
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "cloudevents"
> [[sink]]
> name = "b"
> kind = "cloudevents"
> url = "http://billing.example/api/v1/events"
> [[sink]]
> name = "c"
> kind = "cloudevents"
> url = "https://billing.example/api/v1/events"
> [[sink]]
> name = "d"
> kind = "cloudevents"
> url = "https://octroi:secret@billing.example/"
> ca_file = "/ca.pem"
> [[sink]]
> name = "e"
> kind = "cloudevents"
> url = "billing.example/events"
> [[sink]]
> name = "f"
> kind = "cloudevents"
> url = "http://localhost:8888/events"
> ca_file = "/ca.pem"
> password_file = "/p"
> [[sink]]
> name = "g"
> kind = "cloudevents"
> url = "http://[::1]:8888"
> token_file = "/t"
c.toml:5:1: sink `a` has no `url`; write url = "https://billing.example/api/v1/events"
c.toml:11:7: `url`: its host is another machine; write https and `ca_file`, so that records are not sent in clear
c.toml:15:7: `url`: it is https; write `ca_file`, the certificates to trust, such as /etc/ssl/certs/ca-certificates.crt
c.toml:19:7: `url`: it has a name or a password; write a token into a file, and the file's name as `token_file`
c.toml:24:7: `url`: it is no address of a service (invalid format); write "https://billing.example/api/v1/events"
c.toml:28:7: `url`: it is http, and `ca_file` is for https; write https
c.toml:30:17: a sink of the kind cloudevents has no `password_file`; take it out
"##,
    );
}

#[test]
fn a_sink_to_a_cluster_names_servers_that_are_trusted_and_no_secret() {
    host(
        r##"
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "nats"
> stream = "octroi.1"
> replicas = 2
> directory = "/d"
> [[sink]]
> name = "b"
> kind = "nats"
> url = "tls://nats.example:4222"
> [[sink]]
> name = "c"
> kind = "nats"
> url = "nats://localhost:4222, nats://nats.example:4222"
> [[sink]]
> name = "d"
> kind = "nats"
> url = "nats://octroi:secret@localhost:4222"
> [[sink]]
> name = "e"
> kind = "nats"
> url = "nats://octroi@localhost:4222"
> [[sink]]
> name = "f"
> kind = "nats"
> url = "nats://localhost:4222"
> ca_file = "/ca.pem"
> [[sink]]
> name = "g"
> kind = "nats"
> url = "localhost:4222"
> [[sink]]
> name = "h"
> kind = "nats"
> url = "nats://localhost:4222"
> password_file = "/p"
> [[sink]]
> name = "i"
> kind = "nats"
> url = "nats://a@localhost:4222,nats://b@localhost:4223"
> password_file = "/p"
> [[sink]]
> name = "j"
> kind = "nats"
> url = "nats://a@localhost:4222"
> password_file = "/p"
> token_file = "/t"
> [[sink]]
> name = "k"
> kind = "postgres"
> url = "host=/run/postgresql"
> stream = "octroi"
> replicas = 3
> [[sink]]
> name = "l"
> kind = "nats"
> url = "nats://localhost:4222"
> replicas = 7
c.toml:5:1: sink `a` has no `url`; write url = "tls://octroi@nats.example:4222"
c.toml:8:10: a stream has a name of 1 to 64 letters, digits, `-` and `_`; write "octroi"
c.toml:9:12: a stream has 1, 3 or 5 copies; write replicas = 3
c.toml:10:13: a sink of the kind nats has no `directory`; take it out
c.toml:14:7: `url`: it is tls; write `ca_file`, the certificates to trust, such as /etc/ssl/certs/ca-certificates.crt
c.toml:18:7: `url`: its host is another machine; write tls and `ca_file`, so that records are not sent in clear
c.toml:22:7: `url`: it has a password; write that into a file, and the file's name as `password_file`
c.toml:26:7: `url`: it has a user; write `password_file`, a file with the password and nothing else
c.toml:30:7: `url`: it is nats, and `ca_file` is for tls; write tls
c.toml:35:7: `url`: it is no address of a server (it begins neither with tls nor with nats); write "tls://octroi@nats.example:4222"
c.toml:39:7: `url`: it has no user whose password is in `password_file`; write "tls://octroi@nats.example:4222"
c.toml:44:7: `url`: its servers have different users; write the same for each
c.toml:49:7: `url`: it has a user, and `token_file` is for none; take one of them out
c.toml:56:10: a sink of the kind postgres has no `stream`; take it out
c.toml:57:12: a sink of the kind postgres has no `replicas`; take it out
c.toml:62:12: `replicas` is 7; write 1 to 5
"##,
    );
}

#[test]
fn a_sink_to_clickhouse_has_a_user_a_database_and_no_secret_in_its_address() {
    host(
        r##"
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "clickhouse"
> stream = "octroi"
> [[sink]]
> name = "b"
> kind = "clickhouse"
> url = "https://octroi:secret@clickhouse.example:8443"
> ca_file = "/ca.pem"
> [[sink]]
> name = "c"
> kind = "clickhouse"
> url = "http://octroi@clickhouse.example:8123"
> [[sink]]
> name = "d"
> kind = "clickhouse"
> url = "http://localhost:8123"
> password_file = "/p"
> [[sink]]
> name = "e"
> kind = "clickhouse"
> url = "http://octroi@localhost:8123/a-b"
> [[sink]]
> name = "f"
> kind = "clickhouse"
> url = "http://octroi@localhost:8123/?database=a"
> [[sink]]
> name = "g"
> kind = "clickhouse"
> url = "clickhouse://octroi@localhost"
> token_file = "/t"
> [[sink]]
> name = "h"
> kind = "clickhouse"
> url = "https://a@b@clickhouse.example:8443"
> ca_file = "/ca.pem"
c.toml:5:1: sink `a` has no `url`; write url = "https://octroi@clickhouse.example:8443"
c.toml:8:10: a sink of the kind clickhouse has no `stream`; take it out
c.toml:12:7: `url`: it has a password; write that into a file, and the file's name as `password_file`
c.toml:17:7: `url`: its host is another machine; write https and `ca_file`, so that records are not sent in clear
c.toml:21:7: `url`: it has no user whose password is in `password_file`; write "https://octroi@clickhouse.example:8443"
c.toml:26:7: `url`: after its slash stands the name of a database, letters, digits and `_`; write "https://octroi@clickhouse.example:8443"
c.toml:30:7: `url`: after its slash stands the name of a database, letters, digits and `_`; write "https://octroi@clickhouse.example:8443"
c.toml:34:7: `url`: it is no address of a service (it begins neither with https nor with http); write "https://octroi@clickhouse.example:8443"
c.toml:35:14: a sink of the kind clickhouse has no `token_file`; take it out
c.toml:39:7: `url`: its user has other characters than letters, digits, `_`, `-` and `.`
"##,
    );
}

#[test]
fn a_sink_to_lago_says_which_metric_and_whose_subscription_is_which() {
    host(
        r##"
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "lago"
> [[sink]]
> name = "b"
> kind = "lago"
> url = "https://lago.example/api/v1"
> token_file = "/t"
> ca_file = "/ca.pem"
> code = "octroi_bytes"
> subscriptions = ["17 sub_2"]
> [[sink]]
> name = "c"
> kind = "lago"
> url = "http://lago.example"
> token_file = "/t"
> code = "octroi_bytes"
> subscriptions = ["17 sub_1", "18 sub_1"]
> [[sink]]
> name = "d"
> kind = "cloudevents"
> url = "http://localhost/"
> code = "octroi_bytes"
> subscriptions = ["17 sub_1"]
> [[sink]]
> name = "e"
> kind = "lago"
> url = "http://localhost:3000/lago"
> token_file = "/t"
> code = "octroi bytes"
> subscriptions = ["acme sub_1", "17 sub_2", "18 sub_2", "17 sub_3"]
> password_file = "/p"
c.toml:5:1: sink `a` has no `url`; write url = "https://lago.example"
c.toml:5:1: sink `a` has no `token_file`; write token_file = "/etc/octroi/billing.token"
c.toml:5:1: sink `a` has no `code`; write code = "octroi_bytes"
c.toml:5:1: sink `a` has no `subscriptions`; write subscriptions = ["17 sub_1234"]
c.toml:11:7: `url`: it has more than the place of the server; write "https://lago.example", without /api/v1
c.toml:19:7: `url`: its host is another machine; write https and `ca_file`, so that records are not sent in clear
c.toml:27:8: a sink of the kind cloudevents has no `code`; take it out
c.toml:28:17: a sink of the kind cloudevents has no `subscriptions`; take it out
c.toml:34:8: a billable metric has a code of 1 to 128 bytes without spaces; write "octroi_bytes"
c.toml:35:18: a subscription is a tenant's number and its external_subscription_id at Lago, with a space between; write "17 sub_1234"
c.toml:35:56: tenant 17 has another subscription already; take one of them out
c.toml:36:17: a sink of the kind lago has no `password_file`; take it out
"##,
    );
}

#[test]
fn flow_detail_goes_to_a_collector_that_is_trusted_or_explicitly_in_clear() {
    host(
        r##"
> [meter]
> ledger = "/l.db"
> [[sink]]
> name = "a"
> kind = "ipfix"
> [[sink]]
> name = "b"
> kind = "ipfix"
> url = "udp://collector.example:4739"
> [[sink]]
> name = "c"
> kind = "ipfix"
> url = "tls://collector.example"
> [[sink]]
> name = "d"
> kind = "ipfix"
> url = "tcp://127.0.0.1:4739"
> ca_file = "/ca.pem"
> [[sink]]
> name = "e"
> kind = "ipfix"
> url = "sctp://localhost"
> domain = 0
> [[sink]]
> name = "f"
> kind = "ipfix"
> url = "tcp://localhost/flows"
> token_file = "/t"
> [[sink]]
> name = "g"
> kind = "ipfix"
> url = "udp://collector.example"
> in_clear = true
> [[sink]]
> name = "h"
> kind = "files"
> directory = "/export"
> domain = 7
> in_clear = false
c.toml:5:1: sink `a` has no `url`; write url = "tls://collector.example:4740"
c.toml:11:7: `url`: its host is another machine; write tls and `ca_file`, or `in_clear = true` where the network between is yours alone: flow detail says who talked to whom
c.toml:15:7: `url`: it is tls; write `ca_file`, the certificates to trust, such as /etc/ssl/certs/ca-certificates.crt
c.toml:19:7: `url`: `ca_file` is for tls; write tls
c.toml:25:10: `domain` is 0; write 1 to 4294967295
c.toml:29:7: `url`: it is no address of a collector (it has a path); write "tls://collector.example:4740"
c.toml:30:14: a sink of the kind ipfix has no `token_file`; take it out
c.toml:40:10: a sink of the kind files has no `domain`; take it out
c.toml:41:12: a sink of the kind files has no `in_clear`; take it out
"##,
    );
}
