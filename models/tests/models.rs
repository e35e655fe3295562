//! Runs the models.

use kyrodb_models::graph::{dead_links_model, hold_model};
use kyrodb_models::store::{chain_model, readers_model, view_model};

#[test]
fn a_view_keeps_what_it_sees() {
    view_model::a_view_keeps_what_it_sees();
}

#[test]
fn a_chain_is_followed_while_it_changes() {
    chain_model::a_chain_is_followed_while_it_changes();
}

#[test]
fn who_reads_a_row_has_it() {
    readers_model::who_reads_a_row_has_it();
}

#[test]
fn one_at_a_time_has_a_node() {
    hold_model::one_at_a_time_has_a_node();
}

#[test]
fn nothing_is_linked_to_a_node_that_leaves() {
    dead_links_model::nothing_is_linked_to_a_node_that_leaves();
}

#[test]
fn one_looks_for_all_at_what_was_linked() {
    dead_links_model::one_looks_for_all_at_what_was_linked();
}
