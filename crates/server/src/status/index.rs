//! `/`: a page of links to the other pages, for people with a browser.

use std::fmt::Write;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

/// Pages that a browser can open, each with its content.
const LINKS: [(&str, &str); 9] = [
    ("/health", "state of the server, with a reason where it is not healthy"),
    ("/ready", "whether requests should be sent here"),
    ("/livez", "whether nothing but a restart would help"),
    ("/slo", "objectives, and the last minute"),
    ("/metrics", "metrics for Prometheus"),
    ("/stats", "figures by shard and by core"),
    ("/config", "settings in force, and their sources"),
    ("/usage", "usage of a tenant; with keys alone"),
    ("/debug/slow", "the slowest searches of the last minutes, and stalls of cores"),
];

/// Pages that are for programs: no browser is let in without a key.
const OTHERS: &str = "<p>For programs, from this machine or with an admin key: <code>/debug/pprof/</code> \
     (profiles, threads) and <code>/admin/</code>. <code>kyrodb_ctl --help</code> lists commands for all of \
     them.</p>\n";

pub(super) async fn index() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        // It has no script, and none is to run in it.
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    (headers, page()).into_response()
}

fn page() -> String {
    let mut html =
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>KyroDB</title>\
                    </head>\n<body>\n<h1>KyroDB</h1>\n<ul>\n"
            .to_owned();
    for (path, content) in LINKS {
        let written = writeln!(html, "<li><a href=\"{path}\">{path}</a>: {content}</li>");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    html.push_str("</ul>\n");
    html.push_str(OTHERS);
    html.push_str("</body>\n</html>\n");
    html
}
