//! By which names, and from where, pages may be asked for. A browser on this machine or in this network
//! sends what some page has told it to, also under a name of that page's own (DNS rebinding): such
//! requests tell themselves by `Host`, `Origin` and `Sec-Fetch-Site`, and by nothing that such a page can
//! change.

use std::net::IpAddr;
use std::sync::OnceLock;

use axum::http::header::{FORWARDED, HOST, HeaderMap, ORIGIN, VIA};
use axum::http::{HeaderName, Uri};

use crate::config::ServerSection;

/// Says how a browser came to a request.
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Set by proxies.
const FORWARDED_BY: [HeaderName; 5] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Any name is answered to.
const ANY: &str = "*";

/// Bytes of a name that a refusal repeats, at most.
const SHOWN_MAX: usize = 100;

/// Why a request is refused for the name that it asks for the server by; `None` if that is one of the
/// server's: an IP address, which no page can have as its own and lead here; `localhost`; what is
/// configured; the machine's name. A request without a name comes from no browser.
pub(super) fn refusal(headers: &HeaderMap, uri: &Uri, server: &ServerSection) -> Option<String> {
    let of_header = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let asked = of_header.chain(uri.authority().map(|authority| authority.as_str()));
    let unknown = asked.map(bare).find(|name| !is_own(name, server))?;
    let shown = &unknown[..unknown.floor_char_boundary(SHOWN_MAX)];
    Some(format!(
        "this server has no name `{shown}`: ask for it by an IP address or as localhost, or add the \
         name to server.http_allowed_hosts"
    ))
}

fn is_own(name: &str, server: &ServerSection) -> bool {
    let configured = server.http_allowed_hosts.split(',').map(str::trim);
    let mut own = [server.http_host(), machine_name()].into_iter().chain(configured);
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || own.any(|own| own == ANY || (!own.is_empty() && bare(own) == name))
}

/// A host without port, brackets, the last dot and capitals.
fn bare(host: &str) -> String {
    let host = host.trim();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address.split('%').next().unwrap_or_default(),
        // More than one colon is an address without brackets.
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn machine_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
        read.map(|name| name.trim().to_ascii_lowercase()).unwrap_or_default()
    })
}

/// A page of another site has a browser send this.
pub(super) fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_elsewhere = |site: &str| site != "same-origin" && site != "none";
    let host = text(HOST).unwrap_or_default();
    let is_other = |origin: &str| {
        origin.split_once("://").is_none_or(|(_, own)| !own.eq_ignore_ascii_case(host))
    };
    text(SEC_FETCH_SITE).is_some_and(is_elsewhere) || text(ORIGIN).is_some_and(is_other)
}

/// A proxy sends this, for clients that may be anywhere.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDED_BY.iter().any(|name| headers.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn names_of_the_server_are_answered_and_no_others() {
        let server = ServerSection {
            http_host: Some("Db1.example".into()),
            http_allowed_hosts: "kyrodb.svc, Metrics.example".into(),
            ..ServerSection::default()
        };
        let asked = |host: &str| {
            refusal(&headers(&[("host", host)]), &Uri::from_static("/health"), &server)
        };
        let machine = format!("{}:51051", machine_name());
        for good in [
            "localhost",
            "LocalHost.:51051",
            "a.localhost",
            "127.0.0.1:51051",
            "10.1.2.3",
            "[::1]:51051",
            "[fe80::1%eth0]",
            "::1",
            "db1.example:51051",
            "kyrodb.svc:80",
            "metrics.example",
            &machine,
        ] {
            assert_eq!(asked(good), None, "{good}");
        }
        for bad in [
            "attacker.example",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "db1.example.attacker.example:51051",
            "",
            "*",
            "é",
        ] {
            assert!(asked(bad).unwrap().contains("server.http_allowed_hosts"), "{bad}");
        }
        assert!(asked(&"x".repeat(9_000)).unwrap().len() < 300);
        let two = headers(&[("host", "localhost"), ("host", "attacker.example")]);
        assert!(refusal(&two, &Uri::from_static("/"), &server).is_some());
        let whole = Uri::from_static("http://attacker.example/health");
        assert!(refusal(&headers(&[("host", "localhost")]), &whole, &server).is_some());
        assert_eq!(refusal(&HeaderMap::new(), &Uri::from_static("/"), &server), None);
        let any = ServerSection { http_allowed_hosts: ANY.into(), ..ServerSection::default() };
        let other = headers(&[("host", "other.example")]);
        assert_eq!(refusal(&other, &Uri::from_static("/"), &any), None);
    }

    #[test]
    fn pages_of_other_sites_and_proxies_are_told() {
        let is_cross = |pairs: &[(&'static str, &str)]| is_cross_site(&headers(pairs));
        assert!(!is_cross(&[("host", "localhost:1")]));
        assert!(!is_cross(&[("host", "localhost:1"), ("origin", "http://localhost:1")]));
        assert!(
            !is_cross(&[("sec-fetch-site", "none")])
                && !is_cross(&[("sec-fetch-site", "same-origin")])
        );
        for bad in ["cross-site", "same-site", "é"] {
            assert!(is_cross(&[("sec-fetch-site", bad)]), "{bad}");
        }
        for bad in ["null", "https://other.example", "http://localhost:2", "localhost:1"] {
            assert!(is_cross(&[("host", "localhost:1"), ("origin", bad)]), "{bad}");
        }
        assert!(is_forwarded(&headers(&[("x-forwarded-for", "1.2.3.4")])));
        assert!(is_forwarded(&headers(&[("forwarded", "for=1.2.3.4")])));
        assert!(!is_forwarded(&headers(&[("host", "localhost")])));
    }
}
