//! Messages about budgets of bytes.

use super::host;

#[test]
fn a_quota_says_what_it_is() {
    host(
        r##"
> [meter]
> ledger = "/l"
> [[tenant]]
> name = "acme"
> id = 17
> quota = { bytes = "0B", period = "week", direction = "out", then = "slower" }
> [[tenant]]
> name = "globex"
> id = 18
> quota = { bytes = "20", period = "7min", then = "100bit/s" }
> [[tenant]]
> name = "initech"
> id = 19
> quota = { period = "90min" }
c.toml:8:19: a budget of no byte lets nothing pass; write at least 1B, or leave the quota out for none
c.toml:8:34: `week` is no period; write day, month, or such as 5min, 30min, 1h, 6h
c.toml:8:54: `out` is no direction; write from_tenant, to_tenant or both
c.toml:8:68: `slower` does not start with a number; write a rate such as 200Mbit/s, or write "drop"
c.toml:12:19: `20` is no number of bytes; write such as 500GB or 20TB
c.toml:12:34: a period of `7min` does not end with a slot of five minutes and with the day; write day, month, or such as 5min, 30min, 1h, 6h
c.toml:12:49: what is spent passes with 100bit/s; write at least 1kbit/s, or "drop"
c.toml:16:9: `quota` has no `bytes`; write bytes = "20TB"
c.toml:16:9: `quota` has no `then`; write then = "1Mbit/s"
"##,
    );
}

#[test]
fn a_quota_counts_zones_that_there_are_and_has_books() {
    host(
        r##"
> [[zone]]
> name = "fr"
> cidrs = ["192.0.2.0/24"]
> [[tenant]]
> name = "acme"
> id = 17
> quota = { bytes = "20TB", period = "month", zones = ["other", "de", "fr", "fr"], then = "drop" }
c.toml:9:9: tenant `acme` has a quota, and nobody keeps its books; add [meter], or leave the quota out
c.toml:9:63: tenant `acme`: its quota counts zone `de`, which is none; write one of other, intra-host, group, link, fr
c.toml:9:75: tenant `acme`: its quota counts zone `fr` twice; write it once
"##,
    );
}
