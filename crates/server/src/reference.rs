//! References in `docs` that are generated from the code. A test renders one and calls [`hold`], which fails
//! where the document differs; with `UPDATE=1` in the environment it writes the document instead.

use std::path::Path;

const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->\n";

/// Set to 1, documents are written.
const UPDATE: &str = "UPDATE";

/// Holds the text between the marks of a document of the repository to `generated`.
pub(crate) fn hold(document: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let wanted = replaced(&text, generated).unwrap_or_else(|| panic!("{document} has no marks"));
    if text == wanted {
        return;
    }
    if std::env::var(UPDATE).is_ok_and(|value| value == "1") {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let is_new = |line: &&str| !text.lines().any(|other| other == *line);
    let first = wanted.lines().find(is_new).unwrap_or("lines that are gone");
    panic!(
        "{document} is not what the code says; run `UPDATE=1 cargo test -p kyrodb-server reference`. The first \
         difference: {first}"
    );
}

/// The text with what stands between the marks replaced.
fn replaced(text: &str, generated: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n\n{END}{after}", generated.trim_end()))
}

/// A row of a table in Markdown.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> String {
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.join(" | "))
}

#[test]
fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
    let text = format!("a\n{BEGIN}old\n{END}b\n");
    let once = replaced(&text, "new\n").unwrap();
    assert_eq!(once, format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
    assert_eq!(replaced(&once, "new").unwrap(), once);
    assert_eq!(replaced("a\n", "new"), None);
    assert_eq!(row(["a|b", "c"]), "| a\\|b | c |\n");
}
