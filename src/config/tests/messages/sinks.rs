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
c.toml:5:8: there is no sink of the kind `kafka`; write postgres
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
c.toml:4:1: unknown key `nam` in [[sink]]; did you mean `name`? The keys are name, kind, url, password_file, ca_file
"##,
    );
}
