//! From tokens to the tree.

use super::lexer::Token;
use super::{Call, Node, Operand, Pipeline, eval, functions};

/// How deep actions and parentheses may be nested: the evaluator and this parser recurse.
const MAX_DEPTH: usize = 50;

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

pub(super) fn nodes(tokens: Vec<Token>) -> Result<Vec<Node>, String> {
    let mut tokens = tokens.into_iter().peekable();
    match block(&mut tokens, 0)? {
        (nodes, Ending::Text) => Ok(nodes),
        (_, Ending::Else | Ending::ElseIf) => Err("`else` without `if`".to_owned()),
        (_, Ending::End) => Err("`end` without `if`, `range` or `with`".to_owned()),
    }
}

/// What ended a block of nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Text,
    Else,
    /// The tokens stand after `else if`.
    ElseIf,
    End,
}

fn block(tokens: &mut Tokens, depth: usize) -> Result<(Vec<Node>, Ending), String> {
    if depth > MAX_DEPTH {
        return Err("it is nested too deeply".to_owned());
    }
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        if let Token::Text(text) = token {
            nodes.push(Node::Text(text));
            continue;
        }
        // Everything else begins with `{{`.
        let keyword = match tokens.peek() {
            Some(Token::Word(word))
                if ["if", "range", "with", "else", "end"].contains(&word.as_str()) =>
            {
                let word = word.clone();
                tokens.next();
                word
            }
            _ => String::new(),
        };
        let node = match keyword.as_str() {
            "end" => {
                expect_close(tokens)?;
                return Ok((nodes, Ending::End));
            }
            "else" => {
                if tokens.next_if_eq(&Token::Word("if".to_owned())).is_some() {
                    return Ok((nodes, Ending::ElseIf));
                }
                expect_close(tokens)?;
                return Ok((nodes, Ending::Else));
            }
            "if" => condition(tokens, depth)?,
            "with" => {
                let name = assigned(tokens);
                let value = closed_pipeline(tokens, depth)?;
                let (then, otherwise) = branches(tokens, depth)?;
                Node::With {
                    name,
                    value,
                    then,
                    otherwise,
                }
            }
            "range" => range(tokens, depth)?,
            _ => action(tokens, depth)?,
        };
        nodes.push(node);
    }
    Ok((nodes, Ending::Text))
}

fn condition(tokens: &mut Tokens, depth: usize) -> Result<Node, String> {
    let name = assigned(tokens);
    let condition = closed_pipeline(tokens, depth)?;
    let (then, otherwise) = branches(tokens, depth)?;
    Ok(Node::If {
        name,
        condition,
        then,
        otherwise,
    })
}

fn branches(tokens: &mut Tokens, depth: usize) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (then, ending) = block(tokens, depth + 1)?;
    let otherwise = match ending {
        Ending::End => Vec::new(),
        Ending::ElseIf => vec![condition(tokens, depth + 1)?],
        Ending::Else => match block(tokens, depth + 1)? {
            (otherwise, Ending::End) => otherwise,
            _ => return Err("`end` is missing after `else`".to_owned()),
        },
        Ending::Text => return Err("`end` is missing".to_owned()),
    };
    Ok((then, otherwise))
}

fn range(tokens: &mut Tokens, depth: usize) -> Result<Node, String> {
    let mut names = Vec::new();
    // `range $x` alone ranges over a variable: names count only when `:=` follows.
    let mut ahead = tokens.clone();
    while let Some(Token::Variable(name, fields)) = ahead.next() {
        if !fields.is_empty() {
            break;
        }
        names.push(name);
        match ahead.next() {
            Some(Token::Comma) => {}
            Some(Token::Assign) => {
                *tokens = ahead;
                break;
            }
            _ => {
                names.clear();
                break;
            }
        }
    }
    if names.len() > 2 {
        return Err("`range` takes one or two variables".to_owned());
    }
    let over = closed_pipeline(tokens, depth)?;
    let (body, otherwise) = branches(tokens, depth)?;
    let value = names.pop();
    Ok(Node::Range {
        key: names.pop(),
        value,
        over,
        body,
        otherwise,
    })
}

fn action(tokens: &mut Tokens, depth: usize) -> Result<Node, String> {
    Ok(match assigned(tokens) {
        Some(name) => Node::Assign(name, closed_pipeline(tokens, depth)?),
        None => Node::Print(closed_pipeline(tokens, depth)?),
    })
}

/// Takes `$name :=`.
fn assigned(tokens: &mut Tokens) -> Option<String> {
    let mut ahead = tokens.clone();
    match (ahead.next(), ahead.next()) {
        (Some(Token::Variable(name, fields)), Some(Token::Assign)) if fields.is_empty() => {
            *tokens = ahead;
            Some(name)
        }
        _ => None,
    }
}

fn expect_close(tokens: &mut Tokens) -> Result<(), String> {
    match tokens.next() {
        Some(Token::Close) => Ok(()),
        _ => Err("`}}` is expected".to_owned()),
    }
}

fn closed_pipeline(tokens: &mut Tokens, depth: usize) -> Result<Pipeline, String> {
    let pipeline = pipeline(tokens, depth)?;
    expect_close(tokens)?;
    Ok(pipeline)
}

fn pipeline(tokens: &mut Tokens, depth: usize) -> Result<Pipeline, String> {
    if depth > MAX_DEPTH {
        return Err("it is nested too deeply".to_owned());
    }
    let mut calls = Vec::new();
    loop {
        let mut operands = Vec::new();
        while let Some(operand) = operand(tokens, depth)? {
            operands.push(operand);
        }
        match operands.first() {
            None => return Err("a value is missing".to_owned()),
            Some(Operand::Function(_)) => {}
            Some(Operand::Field(path)) if eval::is_method(path, &operands) && calls.is_empty() => {}
            Some(_) if operands.len() > 1 || !calls.is_empty() => {
                return Err("only functions take arguments".to_owned());
            }
            Some(_) => {}
        }
        calls.push(Call(operands));
        if tokens.next_if_eq(&Token::Pipe).is_none() {
            return Ok(Pipeline(calls));
        }
    }
}

fn operand(tokens: &mut Tokens, depth: usize) -> Result<Option<Operand>, String> {
    let is_operand = matches!(
        tokens.peek(),
        Some(
            Token::Field(_)
                | Token::Variable(..)
                | Token::Literal(_)
                | Token::Word(_)
                | Token::Begin
        )
    );
    if !is_operand {
        return Ok(None);
    }
    Ok(match tokens.next() {
        Some(Token::Field(path)) => Some(Operand::Field(path)),
        Some(Token::Variable(name, path)) => Some(Operand::Variable(name, path)),
        Some(Token::Literal(value)) => Some(Operand::Literal(value)),
        Some(Token::Word(name)) => {
            if !functions::FUNCTIONS.contains(&name.as_str()) {
                return Err(format!("there is no function `{name}`"));
            }
            Some(Operand::Function(name))
        }
        Some(Token::Begin) => {
            let inner = pipeline(tokens, depth + 1)?;
            match tokens.next() {
                Some(Token::End(path)) => Some(Operand::Group(inner, path)),
                _ => return Err("`)` is missing".to_owned()),
            }
        }
        _ => None,
    })
}
