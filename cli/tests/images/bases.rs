//! Base images that a build looked up in a registry.

use crate::kit::Kit;
use crate::kit_and_registry;

#[test]
fn the_second_build_needs_no_registry() {
    let Some((kit, registry)) = kit_and_registry() else {
        return;
    };
    let base = format!("{}/base:1", registry.host);
    kit.must_build(
        "FROM scratch\nCOPY a /a\nENV FROM=base\n",
        &["--push", "-t", &base],
    );
    let other = Kit::new();
    other.context(&[("b", "2")]);
    let dockerfile = format!("FROM {base}\nCOPY b /b\n");
    other.must_build(&dockerfile, &["-t", "app"]);
    let names = other
        .must(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .stdout;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, [base.as_str(), "app:latest"]);

    // Collection may have its layers, not what it is called; then they are brought again.
    other.must(&["rmi", "app"]);
    other.must(&["prune", "-f", "--all"]);
    other.must_build(&dockerfile, &["-t", "app"]);
    other.must(&["save", "-o", "base.tar", &base]);

    drop(registry);
    let second = other.must_build(&dockerfile, &["-t", "app"]);
    assert_eq!(second.cached(), 2, "{second}");
    other.must_build(&format!("FROM {base}\nCOPY b /other\n"), &[]);
    let missing = other.build(&dockerfile, &["--pull"]);
    assert_eq!(missing.code, 1, "{missing}");
    other.store_is_whole();
}

#[test]
fn a_build_does_not_move_a_name_that_somebody_gave() {
    let Some((kit, registry)) = kit_and_registry() else {
        return;
    };
    let name = format!("{}/mine:1", registry.host);
    kit.must_build("FROM scratch\nCOPY a /a\n", &["--push", "-t", &name]);
    let other = Kit::new();
    other.context(&[("b", "2")]);
    let own = other
        .must_build("FROM scratch\nCOPY b /b\n", &["-q", "-t", &name])
        .stdout;
    other.must_build(&format!("FROM {name}\nCOPY b /c\n"), &["--pull"]);
    let now = other.must(&["inspect", "-f", "{{.Id}}", &name]).stdout;
    assert_eq!(now, own);
}
