//! Words that make a sentence a riddle, counted in comments: their number may only fall.

use crate::files;

/// A word or phrase in lower case, and its occurrences in comments of all code. Lower a number when it falls.
const COUNTS: [(&str, usize); 7] = [
    ("whoever", 0),
    ("nobody", 0),
    ("so many", 0),
    ("so much", 0),
    ("anew", 0),
    ("vouch", 0),
    ("/// the same", 0),
];

/// The comments of a file in lower case, with their marks and one space between words.
fn comments(text: &str) -> String {
    let comment = |line: &str| {
        let at = line.find("//")?;
        // A URL in a string is no comment.
        let is_url = line[..at].ends_with(':');
        (!is_url).then(|| line[at..].to_lowercase())
    };
    text.lines().filter_map(comment).collect::<Vec<_>>().join("\n")
}

#[test]
fn words_without_a_subject_become_fewer() {
    let mut found = COUNTS.map(|(word, _)| (word, 0, Vec::new()));
    for folder in ["src", "crates", "tests", "benches", "models/src", "perf/cache_traces/src"] {
        for (name, text) in files(folder) {
            if name == "tests/tidy/prose.rs" {
                continue;
            }
            let comments = comments(&text);
            for (word, count, names) in &mut found {
                let here = comments.matches(*word).count();
                if here > 0 {
                    *count += here;
                    names.push(name.clone());
                }
            }
        }
    }
    for ((word, most), (_, count, names)) in COUNTS.into_iter().zip(found) {
        assert!(count <= most, "`{word}` is in {count} comments, not in {most}: {names:?}");
        assert!(
            count >= most,
            "`{word}` is in {count} comments only: lower its number in {}",
            file!()
        );
    }
}
