//! The style guide as a test: who may import whom, lengths, forbidden words, and what the machine may never see.
//!
//! Every check is a function from the text of a file to what it found there, so [`bite`] shows each one biting on a
//! snippet, and `.ci/fences` on a copy of the whole tree. Plain std: it reads, and it parses nothing that a page of
//! [`source`] cannot. Read first: [`rules::CHECKS`].

#[path = "tidy/bite.rs"]
mod bite;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;

use source::Source;

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = source::all(root);
    assert!(sources.len() > 50, "void: only {} files were found below {}", sources.len(), root.display());
    let mut found: Vec<String> = Vec::new();
    for source in &sources {
        found.extend(rules::CHECKS.iter().flat_map(|check| check(source)).map(|finding| finding.to_string()));
    }
    match std::fs::read_to_string(root.join("docs/semantics.md")) {
        Ok(semantics) => {
            let clauses = rules::clauses(&semantics);
            assert!(clauses.len() > 30, "void: only {} clauses were found in docs/semantics.md", clauses.len());
            let cited = sources.iter().flat_map(|source| rules::unknown_clauses(source, &clauses));
            found.extend(cited.map(|finding| finding.to_string()));
        }
        Err(error) => eprintln!("SKIPPED: whether the clauses that the code cites exist: docs/semantics.md: {error}"),
    }
    let lengths = lengths(&sources);
    eprintln!(
        "{} files below src, {} lines without tests, median {}, longest {} ({})",
        lengths.len(),
        lengths.iter().map(|(length, _)| length).sum::<usize>(),
        lengths[lengths.len() / 2].0,
        lengths[lengths.len() - 1].0,
        lengths[lengths.len() - 1].1
    );
    assert!(found.is_empty(), "{} untidy places:\n\n{}\n", found.len(), found.join("\n\n"));
}

/// Lines without tests of every file below src, ascending.
fn lengths(sources: &[Source]) -> Vec<(usize, &str)> {
    let own = sources.iter().filter(|source| source.path.starts_with("src/") && source.is_rust() && !source.is_test());
    let mut lengths: Vec<_> = own.map(|source| (source.length(), source.path.as_str())).collect();
    lengths.sort_unstable();
    lengths
}
