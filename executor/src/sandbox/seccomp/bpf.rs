//! Decisions as instructions for the kernel: one binary search over ranges of call numbers for each way of calling.

use libc::sock_filter;

use super::decision::{Comparison, Condition, Decision, Verdict};
use super::machine::Machine;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JGT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const SKIP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const GIVE: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// The kernel's limit.
const MOST: usize = 4096;

/// What starts at a number, up to where the next one starts; the first is at 0.
pub(super) type Ranges<'d> = Vec<(u32, &'d Decision)>;

/// A filter of ranges by machine; whatever is called otherwise is deadly. `None` where the kernel would not take it.
pub(super) fn assemble(machines: &[(Machine, Ranges<'_>)]) -> Option<Vec<sock_filter>> {
    let mut program = vec![load(ARCHITECTURE)];
    for (machine, ranges) in machines {
        let mut block = vec![load(NUMBER)];
        block.extend(search(ranges, *machine));
        program.push(jump(JEQ, machine.audit(), 0, 1));
        // On this machine, over the jump that skips the block.
        program.push(skip(1));
        program.push(skip(block.len()));
        program.extend(block);
    }
    program.push(give(Verdict::KillProcess));
    (program.len() <= MOST).then_some(program)
}

/// Between the numbers of `rules`, which are sorted, lies `between`; after `newest`, `beyond`.
pub(super) fn ranges<'d>(
    rules: impl IntoIterator<Item = (u32, &'d Decision)>,
    between: &'d Decision,
    (newest, beyond): (u32, &'d Decision),
) -> Ranges<'d> {
    let mut ranges: Ranges<'d> = Vec::new();
    let mut next = 0;
    let mut push = |start: u32, decision: &'d Decision| {
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((start, decision));
        }
    };
    for (number, decision) in rules {
        if number > next {
            push(next, between);
        }
        push(number, decision);
        next = number + 1;
    }
    if next <= newest {
        push(next, between);
    }
    push(next.max(newest + 1), beyond);
    ranges
}

/// A binary search; the number is in the accumulator.
fn search(ranges: &[(u32, &Decision)], machine: Machine) -> Vec<sock_filter> {
    match ranges {
        [] => vec![give(Verdict::KillProcess)],
        [(_, decision)] => decide(decision, machine),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let middle = right.first().map_or(u32::MAX, |(start, _)| *start);
            let left = search(left, machine);
            let mut code = match u8::try_from(left.len()) {
                Ok(length) => vec![jump(JGE, middle, length, 0)],
                Err(_) => vec![jump(JGE, middle, 0, 1), skip(left.len())],
            };
            code.extend(left);
            code.extend(search(right, machine));
            code
        }
    }
}

fn decide(decision: &Decision, machine: Machine) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (conditions, verdict) in &decision.cases {
        code.extend(case(conditions, *verdict, machine));
    }
    code.push(give(decision.otherwise));
    code
}

/// Where a jump within a case leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// The condition holds.
    Holds,
    /// It does not: to the end of the case.
    Fails,
}

/// Gives the verdict if all conditions hold, else goes on behind. A case has few conditions, so that jumps are short.
fn case(conditions: &[Condition], verdict: Verdict, machine: Machine) -> Vec<sock_filter> {
    let mut code: Vec<sock_filter> = Vec::new();
    let mut open: Vec<(usize, To, To)> = Vec::new();
    for condition in conditions {
        let first = open.len();
        compare(condition, machine, &mut code, &mut open);
        let end = code.len();
        for (at, then, otherwise) in open.iter_mut().skip(first) {
            if let Some(instruction) = code.get_mut(*at) {
                let over = u8::try_from(end - *at - 1).unwrap_or(u8::MAX);
                for (to, field) in [
                    (&mut *then, &mut instruction.jt),
                    (&mut *otherwise, &mut instruction.jf),
                ] {
                    if *to == To::Holds {
                        *field = over;
                    }
                }
            }
        }
    }
    let end = code.len() + 1;
    for (at, then, otherwise) in open {
        if let Some(instruction) = code.get_mut(at) {
            let over = u8::try_from(end - at - 1).unwrap_or(u8::MAX);
            if then == To::Fails {
                instruction.jt = over;
            }
            if otherwise == To::Fails {
                instruction.jf = over;
            }
        }
    }
    code.push(give(verdict));
    code
}

/// The jumps whose ends are not known yet are noted in `open`.
fn compare(
    condition: &Condition,
    machine: Machine,
    code: &mut Vec<sock_filter>,
    open: &mut Vec<(usize, To, To)>,
) {
    let (mask, value) = match condition.op {
        Comparison::MaskedEq => (condition.value, condition.value & condition.value_two),
        _ => (u64::MAX, condition.value),
    };
    let halves = |of: u64| ((of >> 32) as u32, of as u32);
    let ((mask_high, mask_low), (high, low)) = (halves(mask), halves(value));
    let mut branch = |code: &mut Vec<sock_filter>, test: u16, value, then, otherwise| {
        open.push((code.len(), then, otherwise));
        code.push(jump(test, value, 0, 0));
    };
    // All machines here are little-endian.
    let at = ARGUMENTS + 8 * condition.index;
    // Of the comparison for "greater", the one for "less" is the opposite.
    let (holds, fails) = match condition.op {
        Comparison::Ne | Comparison::Lt | Comparison::Le => (To::Fails, To::Holds),
        _ => (To::Holds, To::Fails),
    };
    let ordered = match condition.op {
        Comparison::Gt | Comparison::Le => Some(JGT),
        Comparison::Ge | Comparison::Lt => Some(JGE),
        Comparison::Eq | Comparison::Ne | Comparison::MaskedEq => None,
    };
    if machine.has_wide_arguments() && mask_high != 0 {
        code.push(load(at + 4));
        if mask_high != u32::MAX {
            code.push(instruction(AND, 0, 0, mask_high));
        }
        if ordered.is_some() {
            branch(code, JGT, high, holds, To::Next);
        }
        branch(code, JEQ, high, To::Next, fails);
    }
    code.push(load(at));
    if mask_low != u32::MAX {
        code.push(instruction(AND, 0, 0, mask_low));
    }
    branch(code, ordered.unwrap_or(JEQ), low, holds, fails);
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(LOAD, 0, 0, offset)
}

fn jump(code: u16, value: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(code, then, otherwise, value)
}

fn skip(length: usize) -> sock_filter {
    instruction(SKIP, 0, 0, u32::try_from(length).unwrap_or(u32::MAX))
}

fn give(verdict: Verdict) -> sock_filter {
    instruction(GIVE, 0, 0, verdict.code())
}

/// Runs a filter as the kernel would, and counts its steps.
#[cfg(test)]
pub(super) fn run(
    program: &[sock_filter],
    machine: Machine,
    number: u32,
    arguments: [u64; 6],
) -> (u32, usize) {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => machine.audit(),
        offset => {
            let argument = arguments[(offset as usize - 16) / 8];
            (argument >> (offset % 8 * 8)) as u32
        }
    };
    let (mut at, mut accumulator, mut steps) = (0, 0, 0);
    loop {
        let i = program[at];
        at += 1;
        steps += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            LOAD => accumulator = word(i.k),
            AND => accumulator &= i.k,
            JEQ => branch(accumulator == i.k),
            JGE => branch(accumulator >= i.k),
            JGT => branch(accumulator > i.k),
            SKIP => at += i.k as usize,
            GIVE => return (i.k, steps),
            code => panic!("instruction {code}"),
        }
    }
}
