//! `rbuild lsp`, as an editor speaks to it. Needs no machine that can build.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::kit::Kit;

const DOCKERFILE: &str = "\
ARG VERSION=1
FROM busybox AS build
ENV MODE=fast
RUN echo $VERSION ${MODE} && \\
    true
from scratch
COPY --from=build /etc /etc
";

struct Editor {
    server: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    uri: String,
    asked: u64,
}

impl Editor {
    /// Opens a Dockerfile in a context.
    fn new(kit: &Kit, text: &str) -> Self {
        let mut command = kit.command(["lsp"]);
        let mut server = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = server.stdin.take().unwrap();
        let output = BufReader::new(server.stdout.take().unwrap());
        let uri = format!("file://{}", kit.path("context/Dockerfile").display());
        let mut editor = Self {
            server,
            input,
            output,
            uri,
            asked: 0,
        };
        let offered = editor.ask("initialize", json!({"capabilities": {}}));
        assert_eq!(offered["capabilities"]["hoverProvider"], true);
        editor.tell("initialized", &json!({}));
        let document =
            json!({"uri": editor.uri, "languageId": "dockerfile", "version": 1, "text": text});
        editor.tell("textDocument/didOpen", &json!({ "textDocument": document }));
        editor
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        self.input.flush().unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "the server went away"
            );
            match line.trim_end() {
                "" => break,
                header => {
                    if let Some(value) = header.strip_prefix("Content-Length: ") {
                        length = value.parse().unwrap();
                    }
                }
            }
        }
        let mut body = vec![0; length];
        self.output.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn tell(&mut self, method: &str, params: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let mut message = json!({"jsonrpc": "2.0", "id": self.asked, "method": method});
        if !params.is_null() {
            message["params"] = params;
        }
        self.send(&message);
        loop {
            let answer = self.receive();
            if answer["id"] == self.asked {
                assert_eq!(answer["error"], Value::Null, "{answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The next list of what is wrong: (line, code).
    fn told(&mut self) -> Vec<(u64, String)> {
        loop {
            let message = self.receive();
            if message["method"] == "textDocument/publishDiagnostics" {
                let list = message["params"]["diagnostics"].as_array().unwrap().iter();
                return list
                    .map(|one| {
                        let line = one["range"]["start"]["line"].as_u64().unwrap();
                        (line, one["code"].as_str().unwrap().to_owned())
                    })
                    .collect();
            }
        }
    }

    fn at(&mut self, method: &str, line: usize, column: usize) -> Value {
        let document = json!({"uri": self.uri});
        let position = json!({"line": line, "character": column});
        let context = json!({"includeDeclaration": true, "triggerKind": 1});
        let params = json!({"textDocument": document, "position": position, "context": context});
        self.ask(method, params)
    }

    fn completed(&mut self, text: &str, line: usize, column: usize) -> Vec<String> {
        let document = json!({"uri": self.uri, "version": 2});
        let change = json!({"textDocument": document, "contentChanges": [{"text": text}]});
        self.tell("textDocument/didChange", &change);
        let items = self.at("textDocument/completion", line, column);
        let labels = items.as_array().unwrap().iter();
        labels
            .map(|item| item["label"].as_str().unwrap().to_owned())
            .collect()
    }

    fn leave(mut self) {
        assert_eq!(self.ask("shutdown", Value::Null), Value::Null);
        self.tell("exit", &Value::Null);
        assert!(self.server.wait().unwrap().success());
    }
}

fn start(location: &Value) -> (u64, u64) {
    let start = &location["range"]["start"];
    (
        start["line"].as_u64().unwrap(),
        start["character"].as_u64().unwrap(),
    )
}

#[test]
fn mistakes_are_told_while_a_file_is_written() {
    let kit = Kit::new();
    kit.context(&[(".dockerignore", "*.log\n")]);
    let mut editor = Editor::new(&kit, DOCKERFILE);
    assert_eq!(
        editor.told(),
        [
            (3, "ArgBeforeFromNotVisible".to_owned()),
            (5, "ConsistentInstructionCasing".to_owned()),
        ]
    );
    let mut told = |version: u64, text: &str| {
        let document = json!({"uri": editor.uri, "version": version});
        let change = json!({"textDocument": document, "contentChanges": [{"text": text}]});
        editor.tell("textDocument/didChange", &change);
        editor.told()
    };
    let mistyped = "# check=experimental=all\nFROM scratch\nCOPPY a b\nCOPY x.log /\n";
    assert_eq!(told(2, mistyped), [(2, "unknown-instruction".to_owned())]);
    // What sources mean is known of a file that can be understood.
    let corrected = told(3, &mistyped.replace("COPPY", "COPY"));
    assert!(
        corrected.contains(&(3, "CopyIgnoredFile".to_owned())),
        "{corrected:?}"
    );
    let document = json!({"textDocument": {"uri": editor.uri}});
    editor.tell("textDocument/didClose", &document);
    assert_eq!(editor.told(), []);
    editor.leave();
}

#[test]
fn words_lead_to_what_declares_them() {
    let kit = Kit::new();
    kit.context(&[]);
    let mut editor = Editor::new(&kit, DOCKERFILE);
    // `build` of COPY --from, `MODE` and `VERSION` of the RUN.
    assert_eq!(start(&editor.at("textDocument/definition", 6, 14)), (1, 16));
    assert_eq!(start(&editor.at("textDocument/definition", 3, 22)), (2, 4));
    assert_eq!(start(&editor.at("textDocument/definition", 3, 12)), (0, 4));
    assert_eq!(editor.at("textDocument/definition", 4, 5), Value::Null);
    let uses = editor.at("textDocument/references", 1, 18);
    let uses: Vec<_> = uses.as_array().unwrap().iter().map(start).collect();
    assert_eq!(uses, [(1, 16), (6, 12)]);
    let hover = editor.at("textDocument/hover", 6, 14);
    let text = hover["contents"]["value"].as_str().unwrap();
    assert!(
        text.contains("FROM busybox AS build") && text.ends_with("line 2"),
        "{text}"
    );
    let hover = editor.at("textDocument/hover", 2, 1);
    assert!(
        hover["contents"]["value"]
            .as_str()
            .unwrap()
            .starts_with("`ENV ")
    );

    let document = json!({"textDocument": {"uri": editor.uri}});
    let symbols = editor.ask("textDocument/documentSymbol", document.clone());
    let names: Vec<_> = symbols
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["ARG VERSION=1", "build", "stage 1"]);
    assert_eq!(symbols[1]["children"].as_array().unwrap().len(), 2);
    let folds = editor.ask("textDocument/foldingRange", document.clone());
    let folds: Vec<_> = folds
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["startLine"].as_u64().unwrap(),
                it["endLine"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(folds, [(3, 4), (1, 4), (5, 6)]);
    let options = json!({"tabSize": 4, "insertSpaces": true});
    let document = json!({"textDocument": {"uri": editor.uri}, "options": options});
    let edits = editor.ask("textDocument/formatting", document);
    let formatted = edits[0]["newText"].as_str().unwrap();
    assert!(formatted.contains("\nFROM scratch\n"), "{formatted}");
    editor.leave();
}

#[test]
fn what_may_come_next_is_offered() {
    let kit = Kit::new();
    kit.context(&[]);
    let mut editor = Editor::new(&kit, "");
    let begun = "FROM busybox AS build\nARG A=1\n";
    assert_eq!(editor.completed("", 0, 0).len(), 18);
    let flags = editor.completed(&format!("{begun}COPY --"), 2, 7);
    assert!(
        flags.contains(&"--from=".to_owned()) && flags.contains(&"--link".to_owned()),
        "{flags:?}"
    );
    assert_eq!(
        editor.completed(&format!("{begun}COPY --from="), 2, 12),
        ["build"]
    );
    assert_eq!(editor.completed(&format!("{begun}FROM b"), 2, 6), ["build"]);
    assert_eq!(
        editor.completed(&format!("{begun}RUN echo ${{A"), 2, 12),
        ["A"]
    );
    assert!(
        editor
            .completed(&format!("{begun}RUN a \\\n"), 3, 0)
            .is_empty()
    );
    assert!(editor.completed(&format!("{begun}RUN a "), 2, 6).is_empty());
    editor.leave();
}
