//! `--format`: the part of Go's templates that people use to print fields of images and lists.
//!
//! ```text
//! {{.Field.Inner}}  {{json .}}  {{index .List 0}}  {{len .List}}  {{join .List ","}}  {{lower .X | printf "%s"}}
//! {{if .X}}..{{else if .Y}}..{{else}}..{{end}}  {{range .List}}..{{end}}  {{range $k, $v := .Map}}..{{end}}
//! {{with .X}}..{{end}}  {{$x := .Y}}  {{- trimmed -}}  {{/* comment */}}
//! ```
//!
//! [`parse`] makes the tree, [`eval`] walks it over a JSON value, calling [`functions`]. A field that is not there is
//! an error, unless it is one that Docker leaves out where it holds nothing.

mod eval;
mod functions;
mod lexer;
mod parse;
mod typed;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::table::Row;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    /// `$name := pipeline`, `$name = pipeline`
    Assign(String, Pipeline),
    If {
        /// `if $name := pipeline`; as of `with`, it is known in both branches.
        name: Option<String>,
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        name: Option<String>,
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        value: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Calls, each handing its result to the next as last argument.
#[derive(Debug)]
struct Pipeline(Vec<Call>);

#[derive(Debug)]
struct Call(Vec<Operand>);

#[derive(Debug)]
enum Operand {
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$`, `$x.A`
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Group(Pipeline, Vec<String>),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let nodes = lexer::tokens(text)
            .and_then(parse::nodes)
            .map_err(|reason| bad(text, &reason))?;
        Ok(Self { nodes })
    }

    /// Renders a document, as `inspect` does.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        eval::render(&self.nodes, value, eval::Kind::Document)
            .map_err(|reason| Error::failed(format!("the template cannot be rendered: {reason}")))
    }

    /// Renders a row of a list: a field that it does not have is an error.
    pub(crate) fn render_row(&self, row: &Row) -> Result<String> {
        eval::render(&self.nodes, &crate::table::object(row), eval::Kind::Row)
            .map_err(|reason| Error::failed(format!("the template cannot be rendered: {reason}")))
    }

    /// First names of all fields of the row that the template prints at its top level, in order.
    pub(crate) fn fields(&self) -> Vec<String> {
        fn of_pipeline(pipeline: &Pipeline, fields: &mut Vec<String>) {
            for operand in pipeline.0.iter().flat_map(|call| &call.0) {
                match operand {
                    Operand::Field(path) => fields.extend(path.first().cloned()),
                    Operand::Group(inner, _) => of_pipeline(inner, fields),
                    Operand::Variable(..) | Operand::Literal(_) | Operand::Function(_) => {}
                }
            }
        }
        let mut fields = Vec::new();
        for node in &self.nodes {
            if let Node::Print(pipeline) = node {
                of_pipeline(pipeline, &mut fields);
            }
        }
        fields
    }
}

fn bad(text: &str, reason: &str) -> Error {
    Error::usage(format!("--format `{text}`: {reason}"))
        .help("it is `json` or a template such as `{{.ID}}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(template: &str, expected: &str) {
        let value = json!({
            "Id": "sha256:12",
            "Size": 3,
            "Tags": ["a", "b"],
            "Config": {"Env": ["A=1"], "Labels": {"x": "1", "y.z": "2"}, "Cmd": null, "Empty": []},
        });
        let rendered = Template::parse(template).and_then(|template| template.render(&value));
        let text = rendered.unwrap_or_else(|error| panic!("{template}: {error:?}"));
        assert_eq!(text, expected, "{template}");
    }

    #[test]
    fn templates_render_as_go_does() {
        check("plain", "plain");
        check("{{.Id}} {{ .Size }}", "sha256:12 3");
        check("{{json .Config.Env}}", r#"["A=1"]"#);
        check("{{.Config.Env}} {{.Config.Labels}}", "[A=1] map[x:1 y.z:2]");
        check("{{index .Tags 1}}{{index .Config.Labels \"y.z\"}}", "b2");
        check("{{len .Tags}}", "2");
        check("{{join .Tags \", \"}}", "a, b");
        check("{{.Id | upper | printf \"<%s>\"}}", "<SHA256:12>");
        check("{{range .Tags}}[{{.}}]{{end}}", "[a][b]");
        check("{{range $i, $t := .Tags}}{{$i}}={{$t}};{{end}}", "0=a;1=b;");
        check(
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
            "x=1 y.z=2 ",
        );
        check("{{range .Config.Empty}}x{{else}}none{{end}}", "none");
        check(
            "{{if .Config.Cmd}}yes{{else if .Tags}}tags{{else}}no{{end}}",
            "tags",
        );
        check(
            "{{if and .Size (not .Config.Cmd)}}1{{end}}{{if eq .Size 3}}2{{end}}",
            "12",
        );
        check("{{with .Config}}{{.Env}}{{$.Id}}{{end}}", "[A=1]sha256:12");
        check("a {{- .Size -}} b{{/* gone */}}", "a3b");
        check(
            "{{.Config.Health}} {{.Config.Cmd}} {{.Config.Labels.none}}",
            "<nil> [] <no value>",
        );
        check(
            "{{with $x := .Size}}{{$x}}{{.}}{{end}}{{if $y := .Tags}}{{len $y}}{{else}}{{$y}}{{end}}",
            "332",
        );
        check(
            "{{printf \"%+d|%05.1f|%-4d|% d|%06d|%x|%X|%o|%c\" 4 2.25 7 5 -42 255 \"k\" 8 65}}",
            "+4|002.2|7   | 5|-00042|ff|6B|10|A",
        );
        check(
            "{{printf \"%q %q %s\" .Tags .Config.Cmd .Tags}}",
            "[\"a\" \"b\"] [] [a b]",
        );
        check(
            "[{{index .Config.Labels \"none\"}}]{{index .Config.Volumes \"x\" | len}}",
            "[]0",
        );
        check(
            "{{.Config.Entrypoint}}{{.Config.Volumes}}[{{.Config.User}}]{{json .Config.Cmd}}{{len .Config.Cmd}}",
            "[]map[][]null0",
        );
        check(
            "{{.Config.Labels.User}}{{with .Config}}{{.Shell}}{{if eq .User \"\"}}root{{end}}{{end}}",
            "<no value>[]root",
        );
        check("{{$x := .Size}}{{$x}}{{println \"a\" 1}}", "3a 1\n");
        check("{{(index .Tags 0) | lower}}{{`raw`}}", "araw");
        check(
            "{{.Config.Labels.x}}{{if or .Config.Cmd .Config.Empty}}x{{end}}",
            "1",
        );
        check("{{slice .Id 7}}{{split \"a,b\" \",\"}}", "12[a b]");
        check("{{slice .Tags 1 2}}{{title \"two words\"}}", "[b]Two Words");
        check(
            "<{{pad .Id 1 2}}|{{pad \"\" 1 2}}>{{printf \"%t\" true}}",
            "< sha256:12  |>true",
        );
    }

    #[test]
    fn wrong_templates_are_usage_errors() {
        for template in [
            "{{",
            "{{.Id",
            "{{if .Id}}",
            "{{end}}",
            "{{else}}",
            "{{nope .Id}}",
            "{{.Id | }}",
            "{{\"a}}",
            "{{}}",
            "{{range}}x{{end}}",
            "{{(.Id}}",
            "{{if .A}}{{else}}{{else}}{{end}}",
        ] {
            assert!(
                matches!(Template::parse(template), Err(Error::Usage(_))),
                "{template}"
            );
        }
        for template in [
            "{{index .Tags 7}}",
            "{{len .Size}}",
            "{{.Id.Inner}}",
            "{{join .Id 1}}",
            "{{.Nope}}",
            "{{.Nope.More}}",
            "{{index (index .Ports \"80/tcp\") 0}}",
        ] {
            let parsed = Template::parse(template).unwrap();
            assert!(
                parsed
                    .render(&json!({"Id": "a", "Size": 1, "Tags": []}))
                    .is_err(),
                "{template}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(text in "(\\{\\{|\\}\\}|[-|.()$\" ]|if|range|end|else|index|json|printf|%[sdq]|\\PC){0,20}") {
            if let Ok(template) = Template::parse(&text) {
                let _rendered = template.render(&json!({"a": [1, {"b": null}]}));
            }
        }
    }
}
