use rbuild_cache::Ingredient;
use rbuild_cache::tree::{Entry, Kind, Tree};

use super::nearest::{Difference, is_same_instruction, nearest, own_differences, own_key};
use super::{ExplainedStep, Explanation, FileChange, Reason, StepOutcome, paths};

fn ingredients(list: &[(&str, &str)]) -> Vec<Ingredient> {
    list.iter()
        .map(|(name, value)| Ingredient {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        })
        .collect()
}

#[test]
fn the_nearest_list_has_most_in_common() {
    let now = ingredients(&[("argv[0]", "b"), ("env.A", "2"), ("input[0].content", "x")]);
    let other = ingredients(&[("argv[0]", "a"), ("env.A", "1"), ("input[0].content", "x")]);
    let same = ingredients(&[("argv[0]", "b"), ("env.A", "1"), ("input[0].content", "x")]);
    let lists = [other.as_slice(), same.as_slice()];
    assert_eq!(nearest(&now, lists.into_iter()), Some(same.as_slice()));
    assert_eq!(
        own_differences(&same, &now),
        [Difference {
            name: "env.A".to_owned(),
            before: Some("1".to_owned()),
            after: Some("2".to_owned()),
        }]
    );
}

#[test]
fn inputs_are_no_part_of_what_an_operation_is() {
    let one = ingredients(&[("argv[0]", "a"), ("mount[/m].input", "1"), ("inputs", "2")]);
    let other = ingredients(&[("argv[0]", "a"), ("mount[/m].input", "2"), ("inputs", "3")]);
    assert_eq!(own_key(&one), own_key(&other));
    assert_eq!(own_differences(&one, &other), []);
    let gone = ingredients(&[("argv[0]", "a"), ("env.B", "")]);
    assert_ne!(own_key(&one), own_key(&gone));
    let difference = own_differences(&gone, &one);
    assert_eq!(difference[0].name, "env.B");
    assert_eq!(difference[0].after, None);
}

#[test]
fn an_instruction_is_known_by_what_it_does() {
    let copy = ingredients(&[("source[0]", "a"), ("destination", "/a"), ("chown", "1")]);
    let other_owner = ingredients(&[("source[0]", "a"), ("destination", "/a"), ("chown", "2")]);
    let other_source = ingredients(&[("source[0]", "b"), ("destination", "/a"), ("chown", "1")]);
    assert!(is_same_instruction(&copy, &other_owner));
    assert!(!is_same_instruction(&copy, &other_source));
    let several = |source| ingredients(&[("action[1].source[0]", source), ("env.A", "1")]);
    assert!(!is_same_instruction(&several("a"), &several("b")));
}

#[test]
fn files_are_compared_by_what_of_them_differs() {
    let file = |path: &str, mode, content| Entry {
        mode,
        content: [content; 32],
        ..Entry::new(path.as_bytes().to_vec(), Kind::File)
    };
    let before = Tree {
        entries: vec![
            file("a", 0o644, 1),
            file("b", 0o644, 1),
            file("c", 0o644, 1),
        ],
    };
    let link = Entry::new(b"c".to_vec(), Kind::Symlink);
    let after = Tree {
        entries: vec![file("b", 0o755, 2), link, file("d", 0o644, 1)],
    };
    let changes = paths::changes(&before, &after);
    assert_eq!(
        changes,
        [
            (&b"a"[..], FileChange::Removed, vec![]),
            (b"b", FileChange::Changed, vec!["content", "mode"]),
            (b"c", FileChange::Changed, vec!["type"]),
            (b"d", FileChange::Added, vec![]),
        ]
    );
}

#[test]
fn roots_are_at_the_end_of_every_chain() {
    let step = |step, reasons: Vec<Reason>| ExplainedStep {
        step,
        name: String::new(),
        line: 1,
        end_line: 1,
        outcome: StepOutcome::Ran,
        reasons,
        not_in_key: Vec::new(),
        duration_ms: None,
    };
    let above = |step| Reason::Step {
        step,
        name: String::new(),
        line: 1,
    };
    let explanation = Explanation {
        dockerfile: String::new(),
        steps: vec![
            step(0, vec![Reason::Pruned]),
            step(1, vec![above(0), above(1)]),
            step(2, vec![above(1), Reason::NoCache]),
        ],
    };
    let roots = explanation.roots(&explanation.steps[2]);
    let roots: Vec<(u32, &Reason)> = roots.iter().map(|(step, it)| (step.step, *it)).collect();
    assert_eq!(roots, [(2, &Reason::NoCache), (0, &Reason::Pruned)]);
    let text = serde_json::to_string(&explanation).unwrap();
    let read: Explanation = serde_json::from_str(&text).unwrap();
    assert_eq!(read, explanation);
}
