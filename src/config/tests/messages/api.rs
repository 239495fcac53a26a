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
c.toml:4:1: unknown key `write` in [api]; the keys are socket, page, read, policy
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
