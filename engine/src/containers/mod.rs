//! Containers. For now those in the foreground: [`run`].

mod run;
