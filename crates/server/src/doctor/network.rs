//! The ports that the server listens on.

use super::Host;
use super::report::{About, Check};

const RANGE: &str = "proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";

pub(super) fn ports(host: &Host<'_>) -> Check {
    let about = About {
        name: "ports",
        why: "a port of the range that outgoing connections take theirs from may be taken by one while \
              the server restarts; then it can't listen for up to a minute",
    };
    // The two numbers are separated by a tab.
    let text = host.tree.text(RANGE);
    let numbers = text.as_deref().map(|line| line.split_whitespace().map(str::parse::<u16>));
    let Some([Ok(first), Ok(last)]) = numbers.and_then(|mut n| Some([n.next()?, n.next()?])) else {
        return about.unknown(format!("/{RANGE} can't be read"));
    };
    let reserved = host.tree.line(RESERVED).unwrap_or_default();
    let is_reserved = |port: u16| {
        reserved.split(',').any(|part| {
            let (from, to) =
                part.trim().split_once('-').unwrap_or_else(|| (part.trim(), part.trim()));
            let bounds = from.parse::<u16>().ok().zip(to.parse::<u16>().ok());
            bounds.is_some_and(|(from, to)| (from..=to).contains(&port))
        })
    };
    let server = &host.config.server;
    let ports = [server.port, server.http_port()];
    let is_open = |port: &u16| (first..=last).contains(port) && !is_reserved(*port);
    let open: Vec<String> = ports.iter().copied().filter(is_open).map(|p| p.to_string()).collect();
    let found =
        format!("{} and {}; outgoing connections take {first} to {last}", ports[0], ports[1]);
    if open.is_empty() {
        return about.ok(found);
    }
    // The list is set as a whole.
    let others = reserved.split(',').map(str::trim).filter(|part| !part.is_empty());
    let all: Vec<&str> = others.chain(open.iter().map(String::as_str)).collect();
    let change = format!(
        "sysctl -w net.ipv4.ip_local_reserved_ports={0}, and the line \
         net.ipv4.ip_local_reserved_ports = {0} in /etc/sysctl.d/90-kyrodb.conf",
        all.join(",")
    );
    about.warn(format!("{found}, among them {}", open.join(" and ")), change)
}
