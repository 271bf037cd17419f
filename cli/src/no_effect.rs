//! Flags of Docker's that are in people's scripts and change nothing here: only the values of which that is true are
//! taken.

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrustArgs {
    /// Images are not verified by Docker's Notary; that they are is not supported
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = ["true"])]
    disable_content_trust: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct IsolationArgs {
    /// `default`, the only one that there is on Linux
    #[arg(long, value_name = "WHICH", hide = true, value_parser = ["", "default"])]
    isolation: Option<String>,
}
