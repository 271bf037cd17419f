//! Networks that many commands change at once.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::kit::Kit;
use crate::require_machine;

#[test]
fn networks_that_are_made_at_once_share_no_address() {
    let kit = Kit::new();
    let made: Vec<_> = (0..8)
        .map(|number| {
            // Two of them are after every name.
            let name = format!("n{}", number / 2);
            let mut command = kit.command(["network", "create", &name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let made = made
        .into_iter()
        .map(|child| child.wait_with_output().unwrap());
    assert_eq!(made.filter(|output| output.status.success()).count(), 4);
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let names = ["n0", "n1", "n2", "n3"];
    let arguments = ["network", "inspect", "-f", format].into_iter();
    let arguments: Vec<&str> = arguments.chain(names).collect();
    let shown = kit.must(&arguments).stdout;
    let subnets: BTreeSet<&str> = shown.lines().collect();
    assert_eq!(subnets.len(), 4, "{shown}");
}

#[test]
fn networks_that_are_connected_at_once_all_stay_and_all_go() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    for name in &names {
        kit.must(&["network", "create", name]);
    }
    kit.must(&["run", "-d", "--name", "co", "bb", "sleep", "60"]);
    let change = |what: &str| {
        let start = |name: &String| kit.command(["network", what, name, "co"]).spawn().unwrap();
        let changing: Vec<_> = names.iter().map(start).collect();
        for mut child in changing {
            assert!(child.wait().unwrap().success(), "{what}");
        }
    };
    let format = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}";
    let connected = || kit.must(&["inspect", "-f", format, "co"]).stdout;
    let all = "bridge n0 n1 n2 n3 n4 n5 \n";
    change("connect");
    assert_eq!(connected(), all);
    kit.must(&["stop", "-t", "0", "co"]);
    kit.must(&["start", "co"]);
    assert_eq!(connected(), all);
    kit.must(&["stop", "-t", "0", "co"]);
    change("disconnect");
    kit.must(&["start", "co"]);
    assert_eq!(connected(), "bridge \n");
    kit.must(&["rm", "-f", "co"]);
}
