//! Messages about the control API.

use super::{host, whole};

#[test]
fn an_api_has_a_socket_of_its_own_and_holders_of_roles() {
    host(
        r##"
> [api]
accepted
> [api]
> socket = "api.sock"
c.toml:4:10: `api.sock` is not absolute; start it with `/`
> [api]
> socket = "/run/octroi/"
c.toml:4:10: `/run/octroi/` is a directory; write the name of a socket in it
> [api]
> socket = "/run/octroi/control.sock"
c.toml:4:10: `socket`: this is the control socket; write another path
> [api]
> read = ["user:", "a b"]
> policy = "octroi-policy"
c.toml:4:9: `user:` is no group; write a group's name such as octroi-read, or user:NAME
c.toml:4:18: `a b` is no group; write a group's name such as octroi-read, or user:NAME
c.toml:5:10: `policy` is a string; write policy = ["octroi-policy"]
> [api]
> write = ["x"]
c.toml:4:1: unknown key `write` in [api]; the keys are socket, page, listen, certificate, key, client_ca, read, policy
> [api]
> page = "[::1]:8787"
accepted
> [api]
> page = "8787"
c.toml:4:8: `8787` is no address with a port; write 127.0.0.1:8787 or [::1]:8787
> [api]
> page = "localhost:8787"
c.toml:4:8: `localhost:8787` is no address with a port; write 127.0.0.1:8787 or [::1]:8787
> [api]
> page = "0.0.0.0:8787"
c.toml:4:8: `0.0.0.0:8787` is no loopback address; write 127.0.0.1 or [::1], and reach it from elsewhere by `ssh -L`
> [api]
> page = "[::ffff:127.0.0.1]:8787"
c.toml:4:8: `[::ffff:127.0.0.1]:8787` is no loopback address; write 127.0.0.1 or [::1], and reach it from elsewhere by `ssh -L`
> [api]
> page = "127.0.0.1:0"
c.toml:4:8: `127.0.0.1:0`: write a port from 1024 to 65535
> [api]
> page = true
c.toml:4:8: `page` is a boolean; write page = "127.0.0.1:8787"
> [api]
> listen = "0.0.0.0:8443"
> certificate = "/c"
> key = "/k"
> client_ca = "/a"
> read = ["cert:billing.example"]
accepted
> [api]
> listen = "192.0.2.10:8443"
> key = "/k"
c.toml:4:10: `listen`: clients come with TLS and certificates; write certificate = "/etc/octroi/api.pem", too
c.toml:4:10: `listen`: clients come with TLS and certificates; write client_ca = "/etc/octroi/clients-ca.pem", too
> [api]
> listen = "8443"
c.toml:4:10: `8443` is no address with a port; write one of this host, as in 192.0.2.10:8443
> [api]
> listen = "192.0.2.10:443"
> certificate = "/c"
> key = "/k"
> client_ca = "/a"
c.toml:4:10: `192.0.2.10:443`: write a port from 1024 to 65535
> [api]
> client_ca = "/a"
> read = ["cert:billing.example"]
c.toml:4:13: `client_ca`: nothing listens; write listen = "192.0.2.10:8443", or leave this out
c.toml:5:9: `cert:billing.example` comes with TLS, and nothing listens; write listen = "192.0.2.10:8443", or leave it out
> [api]
> read = ["cert:Billing.example", "cert:a..b"]
c.toml:4:9: `cert:Billing.example` is no certificate's name; write cert: and a DNS name in small letters, as in cert:billing.example
c.toml:4:33: `cert:a..b` is no certificate's name; write cert: and a DNS name in small letters, as in cert:billing.example
"##,
    );
    whole(
        r##"
> api = 3
> [host]
> name = "h"
c.toml:1:7: `api` is an integer; write [api] and its keys below
"##,
    );
}

#[test]
fn metrics_are_on_a_loopback_address_for_users_that_are_named() {
    host(
        r##"
> [metrics]
c.toml:3:1: [metrics] has no `listen`; write listen = "127.0.0.1:9464"
> [metrics]
> listen = "0.0.0.0:9464"
> users = ["prometheus", "a:b", ""]
c.toml:4:10: `0.0.0.0:9464` is no loopback address; write 127.0.0.1 or [::1], and let a Prometheus on this host ask
c.toml:5:24: `a:b` is no user; write a user's name such as prometheus
c.toml:5:31: `` is no user; write a user's name such as prometheus
> [metrics]
> listen = "9464"
> user = ["prometheus"]
c.toml:4:10: `9464` is no address with a port; write 127.0.0.1:9464 or [::1]:9464
c.toml:5:1: unknown key `user` in [metrics]; did you mean `users`? The keys are listen, users
> [metrics]
> listen = "127.0.0.1:80"
c.toml:4:10: `127.0.0.1:80`: write a port from 1024 to 65535
"##,
    );
}
