//! How long a step takes that does nothing: mount, namespaces, exec, commit.
//! `cargo test --release -p rbuild-executor --test sandbox -- measure`

use std::time::{Duration, Instant};

use rbuild_executor::spec::Network;

use crate::kit::{Kit, Outcome, command, shell};

pub(crate) fn measure(kit: &Kit) -> Outcome {
    type Make = fn(&Kit) -> rbuild_executor::Exec;
    let makes: [(&str, Make); 4] = [
        ("exec /bin/true", |_| command(&["/bin/true"])),
        ("sh -c true", |_| shell("true")),
        ("exec /bin/true with the host's network", |_| {
            let mut exec = command(&["/bin/true"]);
            exec.network = Network::Host;
            exec
        }),
        ("exec /bin/true with a private network", |kit| {
            let mut exec = command(&["/bin/true"]);
            if let Ok(private) = rbuild_executor::network::Private::start(
                kit.executor.host(),
                rbuild_executor::spec::Users::Own,
            ) {
                exec.network = Network::Private(std::sync::Arc::new(private));
            }
            exec
        }),
    ];
    for (name, make) in makes {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let start = Instant::now();
                let ran = kit.exec(Some(&kit.base), make(kit));
                ran.ok().map(|_| start.elapsed())
            })
            .collect::<Result<_, _>>()?;
        times.sort_unstable();
        println!(
            "{:?} {name}: median {:.2} ms, 90 % {:.2} ms, least {:.2} ms",
            kit.privilege(),
            times[times.len() / 2].as_secs_f64() * 1e3,
            times[times.len() * 9 / 10].as_secs_f64() * 1e3,
            times[0].as_secs_f64() * 1e3
        );
    }
    Ok(())
}
