//! Families of `/metrics` about what is on its way: bytes held, and what was ended for them or for its time.

use super::metrics::Text;
use crate::observe::Observed;
use crate::observe::in_flight::Fault;

/// What requests and answers hold, and which were ended for it.
pub(super) fn render(text: &mut Text, observed: &Observed) {
    let in_flight = &observed.in_flight;
    for (name, help, bank) in [
        (
            "kyrodb_request_bytes_held",
            "Bytes of requests that are not answered, and of streams that are not decoded.",
            &in_flight.requests,
        ),
        ("kyrodb_answer_bytes_held", "Bytes of answers not taken yet.", &in_flight.answers),
    ] {
        text.gauge(name, help, bank.held());
    }
    let name = "kyrodb_in_flight_bytes_max";
    text.gauge(
        name,
        "The bound on each of these, by the memory that is left.",
        in_flight.requests.max(),
    );
    let name = "kyrodb_in_flight_ended_total";
    let help = "Requests and answers ended for the memory they hold, or for their time.";
    text.family(name, "counter", help);
    for (what, why, counter) in [
        ("request", "memory", &in_flight.requests_refused),
        ("request", "time", &in_flight.requests_expired),
        ("answer", "memory", &in_flight.answers_refused),
        ("answer", "time", &in_flight.answers_stalled),
    ] {
        text.sample(name, &format!("what=\"{what}\",why=\"{why}\""), counter.get());
    }
    let name = "kyrodb_connections_ended_total";
    let help = "Connections that the server ended for what their clients did, or did not.";
    text.family(name, "counter", help);
    for (fault, word) in Fault::ALL {
        text.sample(name, &format!("reason=\"{word}\""), in_flight.faults(fault).get());
    }
    text.sample(name, "reason=\"setup_timeout\"", in_flight.setups_expired.get());
    text.sample(name, "reason=\"ping_timeout\"", in_flight.pings_expired.get());
    let help = "Of the connections beyond the limit, those beyond the share of their address.";
    let refused = in_flight.peers_refused.get();
    text.counter("kyrodb_connections_refused_of_address_total", help, refused);
}
