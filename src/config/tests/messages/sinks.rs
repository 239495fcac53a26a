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
c.toml:5:8: there is no sink of the kind `kafka`; write postgres or files or cloudevents
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
c.toml:4:1: unknown key `nam` in [[sink]]; did you mean `name`? The keys are name, kind, url, directory, password_file, token_file, ca_file
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
c.toml:17:13: another sink writes there already; name another `directory`
c.toml:21:13: `export` is not absolute; start it with `/`
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
