//! The value of `--chmod`: octal, or clauses as `chmod(1)` knows them.

use rbuild_executor::file::{ModeChange, ModeClause, ModeOperator};

/// Reads a mode. The error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<ModeChange, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(ModeChange::Set(mode)),
            _ => Err(format!(
                "`{text}` is not a mode: an octal mode goes from 0 to 7777"
            )),
        };
    }
    let mut clauses = Vec::new();
    for part in text.split(',') {
        parse_clauses(part, &mut clauses).ok_or_else(|| {
            format!("`{text}` is not a mode: write an octal number such as 755, or clauses such as u=rwX,go+r")
        })?;
    }
    Ok(ModeChange::Symbolic(clauses))
}

/// `[ugoa]*` and then one or more of `[-+=]` with `[rwxXst]*` or one of `ugo`.
fn parse_clauses(text: &str, clauses: &mut Vec<ModeClause>) -> Option<()> {
    let mut rest = text.chars().peekable();
    let mut who = 0;
    while let Some(mask) = rest.peek().and_then(|c| match c {
        'a' => Some(0o777),
        c => class(*c),
    }) {
        who |= mask;
        rest.next();
    }
    if who == 0 {
        who = 0o777;
    }
    rest.peek()?;
    while let Some(operator) = rest.next() {
        let mut clause = ModeClause {
            who,
            operator: match operator {
                '+' => ModeOperator::Add,
                '-' => ModeOperator::Remove,
                '=' => ModeOperator::Set,
                _ => return None,
            },
            permissions: 0,
            conditional_execute: false,
            setid: false,
            sticky: false,
            copy_from: None,
        };
        if let Some(mask) = rest.peek().and_then(|c| class(*c)) {
            clause.copy_from = Some(mask);
            rest.next();
        } else {
            while let Some(c) = rest.next_if(|c| !matches!(c, '+' | '-' | '=')) {
                match c {
                    'r' => clause.permissions |= 4,
                    'w' => clause.permissions |= 2,
                    'x' => clause.permissions |= 1,
                    'X' => clause.conditional_execute = true,
                    's' => clause.setid = true,
                    't' => clause.sticky = true,
                    _ => return None,
                }
            }
        }
        clauses.push(clause);
    }
    Some(())
}

fn class(c: char) -> Option<u32> {
    match c {
        'u' => Some(0o700),
        'g' => Some(0o070),
        'o' => Some(0o007),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal() {
        assert_eq!(parse("0755"), Ok(ModeChange::Set(0o755)));
        assert!(parse("77777").is_err());
        assert!(parse("8").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn symbolic() {
        let Ok(ModeChange::Symbolic(clauses)) = parse("u=rwX,go-w+s,+t,g=u") else {
            panic!("no clauses");
        };
        assert_eq!(clauses.len(), 5);
        assert_eq!((clauses[0].who, clauses[0].permissions), (0o700, 6));
        assert!(clauses[0].conditional_execute);
        assert_eq!(
            (clauses[1].who, clauses[1].operator),
            (0o077, ModeOperator::Remove)
        );
        assert!(clauses[2].setid);
        assert_eq!((clauses[3].who, clauses[3].sticky), (0o777, true));
        assert_eq!(clauses[4].copy_from, Some(0o700));
        for bad in ["u", "rwx", "u+q", "u+r,", "=+,", "ug"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
