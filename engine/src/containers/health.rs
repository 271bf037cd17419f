//! Probing a container that runs, as HEALTHCHECK says.

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_image::config::Healthcheck;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::control::Answer;
use super::exec::ExecRequest;
use super::life::Life;
use super::state::{Probe, Status};
use super::supervise::exit_code;
use super::{serve, time};

/// Probes that are remembered.
const MOST_PROBES: usize = 5;
/// Of a probe's output.
const MOST_OUTPUT: u64 = 4096;

/// Starts probing, where the container is to be probed, until it ends or starts again.
pub(super) fn watch(life: &Arc<Life>) {
    let Some(health) = life.definition.health() else {
        return;
    };
    let life = Arc::clone(life);
    let probing = std::thread::Builder::new()
        .name("container-health".to_owned())
        .spawn(move || probe_on(&life, &health));
    if let Err(error) = probing {
        tracing::error!(%error, "the container is not probed");
    }
}

fn or(nanoseconds: i64, default: Duration) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => default,
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    }
}

fn probe_on(life: &Life, health: &Healthcheck) {
    let interval = or(health.interval, Duration::from_secs(30));
    let limit = or(health.timeout, Duration::from_secs(30));
    let start_period = or(health.start_period, Duration::ZERO);
    let start_interval = or(health.start_interval, Duration::from_secs(5));
    let retries = u32::try_from(health.retries).unwrap_or(0);
    let retries = if retries == 0 { 3 } else { retries };
    let starts = life.now().starts;
    let began = Instant::now();
    loop {
        let starting = began.elapsed() < start_period && is_starting(life);
        let pause = if starting { start_interval } else { interval };
        if life.wait_until(Some(pause), |now| {
            now.over || now.handle.is_none() || now.starts != starts
        }) {
            return;
        }
        if life.now().state.status == Status::Paused {
            continue;
        }
        let probe = probe(life, health, limit);
        let in_start_period = began.elapsed() < start_period;
        life.change(|now| {
            let Some(health) = &mut now.state.health else {
                return;
            };
            if probe.exit_code == 0 {
                health.failing_streak = 0;
                "healthy".clone_into(&mut health.status);
            } else if !(in_start_period && health.status == "starting") {
                health.failing_streak += 1;
                if health.failing_streak >= retries {
                    "unhealthy".clone_into(&mut health.status);
                }
            }
            health.log.push(probe);
            let many = health.log.len().saturating_sub(MOST_PROBES);
            health.log.drain(..many);
        });
    }
}

fn is_starting(life: &Life) -> bool {
    let now = life.now();
    let health = now.state.health.as_ref();
    health.is_some_and(|health| health.status == "starting")
}

/// Runs one probe. What takes too long is killed and has failed.
fn probe(life: &Life, health: &Healthcheck, limit: Duration) -> Probe {
    let start = time::now();
    let (exit_code, output) = match run(life, health, limit) {
        Ok(ended) => ended,
        Err(error) => (-1, error),
    };
    Probe {
        start,
        end: time::now(),
        exit_code,
        output,
    }
}

fn run(life: &Life, health: &Healthcheck, limit: Duration) -> Result<(i32, String), String> {
    let argv = match health.test.split_first() {
        Some((kind, command)) if kind == "CMD-SHELL" => {
            let shell = life.definition.config.shell.clone();
            let mut argv = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            argv.push(command.join(" "));
            argv
        }
        Some((kind, command)) if kind == "CMD" => command.to_vec(),
        _ => health.test.clone(),
    };
    let request = ExecRequest {
        argv,
        env: Vec::new(),
        user: None,
        workdir: None,
        privileged: false,
        terminal: None,
        detach: false,
    };
    let text = |error: std::io::Error| error.to_string();
    let errno = |errno: rustix::io::Errno| errno.to_string();
    let (output, inside) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(errno)?;
    let null = std::fs::File::open("/dev/null").map_err(text)?;
    let streams = vec![null.into(), inside.try_clone().map_err(text)?, inside];
    let entered = serve::enter(life, request, streams).map_err(|answer| match answer {
        Answer::Failed { message, .. } => message,
        _ => "the probe could not be started".to_owned(),
    })?;
    let (tell, told) = std::sync::mpsc::channel();
    let reading = std::thread::Builder::new().name("container-probe".to_owned());
    let reading = reading.spawn(move || {
        let mut file = std::fs::File::from(output);
        let mut kept = Vec::new();
        let _ = (&mut file).take(MOST_OUTPUT).read_to_end(&mut kept);
        let _ = std::io::copy(&mut file, &mut std::io::sink());
        // Nobody waits for what comes too late.
        let _ = tell.send(String::from_utf8_lossy(&kept).into_owned());
    });
    if let Err(error) = reading {
        // Nobody would read what it says, and the probe would wait for that.
        entered.signal(Signal::KILL);
        let _ = entered.wait();
        return Err(text(error));
    }
    let pidfd = entered.pidfd().map_err(text)?;
    let deadline = Instant::now() + limit;
    let in_time = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
            Ok(ready) => break ready > 0,
        }
    };
    if !in_time {
        entered.signal(Signal::KILL);
    }
    let exit = entered.wait().map_err(text)?;
    // Something that the probe left behind may hold its output for ever.
    if in_time {
        let output = told.recv_timeout(Duration::from_millis(200));
        Ok((exit_code(exit), output.unwrap_or_default()))
    } else {
        Err(format!(
            "Health check exceeded timeout ({})",
            humantime(limit)
        ))
    }
}

fn humantime(limit: Duration) -> String {
    if limit.subsec_nanos() == 0 {
        format!("{}s", limit.as_secs())
    } else {
        format!("{}ms", limit.as_millis())
    }
}
