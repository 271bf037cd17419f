//! `rbuild login`.

use std::io::Read;

use rbuild_engine::image::registry::Client;
use rbuild_engine::image::registry::credentials::{self, Kept, Login};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::{self, GlobalArgs};
use crate::{machine, prompt, stdio};

/// No password is longer.
const PASSWORD_LIMIT_BYTES: u64 = 1 << 20;

const HELP: &str = "use --username and --password-stdin";

/// Log in to a registry, for later commands too
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// The registry (default: Docker Hub)
    #[arg(value_name = "SERVER", default_value = "")]
    server: String,
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Other users of the machine can see it: better use --password-stdin
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin"
    )]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub(crate) fn execute(args: &LoginArgs, global: &GlobalArgs) -> Result<Exit> {
    let registry = credentials::registry_name(&args.server);
    let options = global.registry_options()?;
    let file = global::credential_files().into_iter().next();
    let file = file.ok_or_else(|| {
        Error::failed("there is no place for the login: neither DOCKER_CONFIG nor HOME is set")
    })?;
    let login = ask(args)?;
    machine::block_on(machine::Signals::Cancel, |cancel| async move {
        let client = Client::new(options);
        let (registry, login) = (registry.as_str(), &login);
        let checking = async { Ok(client.check_login(registry, login).await?) };
        machine::unless_cancelled(&cancel, checking).await?;
        if let Kept::Plain(path) = credentials::keep(&file, registry, login)? {
            stdio::err(format!(
                "warning: the password is kept in plain in `{}`\n  \
                 help: a credential helper (`credsStore` in that file) would keep it safe\n",
                path.display()
            ));
        }
        Ok(())
    })?;
    stdio::out("Login Succeeded\n");
    Ok(Exit::Success)
}

fn ask(args: &LoginArgs) -> Result<Login> {
    if args.password_stdin && args.username.is_none() {
        return Err(Error::usage("--password-stdin needs --username"));
    }
    let user = match &args.username {
        Some(user) => user.clone(),
        None => prompt::line("Username: ", true, HELP)?,
    };
    let password = match &args.password {
        Some(password) => {
            stdio::err(
                "warning: --password shows the password to other users of this machine\n  \
                 help: use --password-stdin\n",
            );
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(PASSWORD_LIMIT_BYTES)
                .read_to_string(&mut text)
                .map_err(|error| Error::io("read", "standard input", error))?;
            let end = text.strip_suffix('\n').unwrap_or(&text);
            end.strip_suffix('\r').unwrap_or(end).to_owned()
        }
        None => prompt::line("Password: ", false, HELP)?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(Error::usage("a login needs a user name and a password"));
    }
    if user.contains(':') {
        return Err(Error::usage("a user name holds no `:`"));
    }
    Ok(Login::Password { user, password })
}
