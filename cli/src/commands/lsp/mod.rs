//! `rbuild lsp`: a language server for Dockerfiles, spoken to over standard input and output (LSP 3.17).
//!
//! [`document`]: an open file and places in it; [`check`]: what is wrong with it; [`names`]: what a word in it stands
//! for; [`answers`]: the answers to an editor's questions. Nothing is built, fetched or written.

mod answers;
mod check;
mod document;
mod names;

use std::collections::HashMap;

use lsp_server::{Connection, ErrorCode, ExtractError, Message, Notification, Request, Response};
use lsp_types::notification::{
    DidChangeTextDocument, DidCloseTextDocument, DidOpenTextDocument, DidSaveTextDocument,
    Notification as _, PublishDiagnostics,
};
use lsp_types::request::{
    Completion, DocumentSymbolRequest, FoldingRangeRequest, Formatting, GotoDefinition,
    HoverRequest, References, Request as _,
};
use lsp_types::{
    CompletionOptions, HoverProviderCapability, OneOf, PublishDiagnosticsParams,
    ServerCapabilities, TextDocumentSyncCapability, TextDocumentSyncKind, Uri,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::exit::Exit;
use document::Document;

/// Serve editors: mistakes, completion, definitions, style
///
/// Speaks the Language Server Protocol on standard input and output.
#[derive(Debug, clap::Args)]
pub(crate) struct LspArgs {
    /// What editors pass by custom; the only way there is
    #[arg(long)]
    stdio: bool,
}

pub(crate) fn execute(args: &LspArgs) -> Result<Exit> {
    let LspArgs { stdio: _ } = args;
    let (connection, threads) = Connection::stdio();
    serve(&connection)?;
    // The threads end when they can be given nothing more to write.
    drop(connection);
    threads
        .join()
        .map_err(|error| Error::failed("cannot speak to the editor").because(error))?;
    Ok(Exit::Success)
}

fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::FULL)),
        document_formatting_provider: Some(OneOf::Left(true)),
        document_symbol_provider: Some(OneOf::Left(true)),
        definition_provider: Some(OneOf::Left(true)),
        references_provider: Some(OneOf::Left(true)),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        folding_range_provider: Some(true.into()),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some(["-", "=", "$", "{", " "].map(str::to_owned).to_vec()),
            ..CompletionOptions::default()
        }),
        ..ServerCapabilities::default()
    }
}

fn serve(connection: &Connection) -> Result<()> {
    let broken = |error: &dyn std::fmt::Display| {
        Error::failed(format!("the editor said what is not understood: {error}"))
    };
    let offered = serde_json::to_value(capabilities()).map_err(|error| broken(&error))?;
    connection
        .initialize(offered)
        .map_err(|error| broken(&error))?;
    let mut server = Server {
        connection,
        documents: HashMap::new(),
    };
    for message in &connection.receiver {
        match message {
            Message::Request(request) => {
                let ends = connection
                    .handle_shutdown(&request)
                    .map_err(|error| broken(&error))?;
                if ends {
                    return Ok(());
                }
                let answer = server.answer(request);
                server.send(Message::Response(answer));
            }
            Message::Notification(notification) => server.hear(notification),
            Message::Response(_) => {}
        }
    }
    Ok(())
}

struct Server<'a> {
    connection: &'a Connection,
    documents: HashMap<Uri, Document>,
}

impl Server<'_> {
    /// An editor that went away is noticed where it is listened to.
    fn send(&self, message: Message) {
        let _ = self.connection.sender.send(message);
    }

    fn hear(&mut self, notification: Notification) {
        match notification.method.as_str() {
            DidOpenTextDocument::METHOD => {
                if let Some(opened) = heard::<DidOpenTextDocument>(notification) {
                    self.read(&opened.text_document.uri, &opened.text_document.text);
                }
            }
            DidChangeTextDocument::METHOD => {
                if let Some(changed) = heard::<DidChangeTextDocument>(notification)
                    && let Some(last) = changed.content_changes.last()
                {
                    self.read(&changed.text_document.uri, &last.text);
                }
            }
            DidSaveTextDocument::METHOD => {
                // The context may have changed: what is ignored, what scripts begin with.
                if let Some(saved) = heard::<DidSaveTextDocument>(notification) {
                    self.publish(&saved.text_document.uri);
                }
            }
            DidCloseTextDocument::METHOD => {
                if let Some(closed) = heard::<DidCloseTextDocument>(notification) {
                    self.documents.remove(&closed.text_document.uri);
                    self.publish(&closed.text_document.uri);
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, uri: &Uri, text: &str) {
        self.documents
            .insert(uri.clone(), Document::new(uri.clone(), text));
        self.publish(uri);
    }

    /// Says what is wrong with a file; nothing, once it is closed.
    fn publish(&self, uri: &Uri) {
        let document = self.documents.get(uri);
        let published = PublishDiagnosticsParams {
            uri: uri.clone(),
            diagnostics: document.map_or_else(Vec::new, check::diagnostics),
            version: None,
        };
        let method = PublishDiagnostics::METHOD.to_owned();
        self.send(Message::Notification(Notification::new(method, published)));
    }

    fn answer(&self, request: Request) -> Response {
        match request.method.as_str() {
            Formatting::METHOD => self.about::<Formatting, _>(
                request,
                |asked| &asked.text_document.uri,
                |document, _| answers::formatting(document),
            ),
            DocumentSymbolRequest::METHOD => self.about::<DocumentSymbolRequest, _>(
                request,
                |asked| &asked.text_document.uri,
                |document, _| answers::symbols(document),
            ),
            FoldingRangeRequest::METHOD => self.about::<FoldingRangeRequest, _>(
                request,
                |asked| &asked.text_document.uri,
                |document, _| answers::folding(document),
            ),
            GotoDefinition::METHOD => self.about::<GotoDefinition, _>(
                request,
                |asked| &asked.text_document_position_params.text_document.uri,
                |document, asked| {
                    let at = asked.text_document_position_params.position;
                    answers::definition(document, at)
                },
            ),
            References::METHOD => self.about::<References, _>(
                request,
                |asked| &asked.text_document_position.text_document.uri,
                |document, asked| {
                    let at = asked.text_document_position.position;
                    answers::references(document, at, asked.context.include_declaration)
                },
            ),
            HoverRequest::METHOD => self.about::<HoverRequest, _>(
                request,
                |asked| &asked.text_document_position_params.text_document.uri,
                |document, asked| {
                    answers::hover(document, asked.text_document_position_params.position)
                },
            ),
            Completion::METHOD => self.about::<Completion, _>(
                request,
                |asked| &asked.text_document_position.text_document.uri,
                |document, asked| {
                    answers::completion(document, asked.text_document_position.position)
                },
            ),
            other => {
                let message = format!("`{other}` is not answered");
                Response::new_err(request.id, ErrorCode::MethodNotFound as i32, message)
            }
        }
    }

    /// Answers a question about an open file.
    fn about<R, A: Serialize>(
        &self,
        request: Request,
        uri: impl Fn(&R::Params) -> &Uri,
        answer: impl Fn(&Document, &R::Params) -> A,
    ) -> Response
    where
        R: lsp_types::request::Request,
        R::Params: DeserializeOwned,
    {
        let id = request.id.clone();
        let invalid = |message: String| {
            Response::new_err(id.clone(), ErrorCode::InvalidParams as i32, message)
        };
        match request.extract::<R::Params>(R::METHOD) {
            Ok((id, asked)) => match self.documents.get(uri(&asked)) {
                Some(document) => Response::new_ok(id, answer(document, &asked)),
                None => invalid(format!("{} is not open", uri(&asked).as_str())),
            },
            Err(ExtractError::MethodMismatch(request)) => invalid(request.method),
            Err(ExtractError::JsonError { error, .. }) => invalid(error.to_string()),
        }
    }
}

fn heard<N: lsp_types::notification::Notification>(
    notification: Notification,
) -> Option<N::Params> {
    notification.extract(N::METHOD).ok()
}
