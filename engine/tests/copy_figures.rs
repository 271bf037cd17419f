//! How long contexts and COPY take. Prints figures when `RBUILD_FIGURES` names a directory to work in (its file
//! system is what is measured); compares nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_cache::{RootDir, Snapshot, SnapshotId, Store};
use rbuild_engine::context::{Context, Wanted};
use rbuild_engine::select::{Request, select};
use rbuild_executor::file::{Action, Base, Copy, Owner, Unpacker};
use rbuild_executor::{Executor, host};
use rbuild_parser::ignore::Patterns;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const FILES: usize = 20_000;

fn main() -> ExitCode {
    let Some(place) = std::env::var_os("RBUILD_FIGURES") else {
        println!("SKIPPED: figures are taken only where RBUILD_FIGURES names a directory");
        return ExitCode::SUCCESS;
    };
    let host = match host::init() {
        Ok(host) => host,
        Err(error) => {
            println!("SKIPPED: {error}: {}", error.source);
            return ExitCode::SUCCESS;
        }
    };
    match measure(host, Path::new(&place)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(host: rbuild_executor::Host, place: &Path) -> Outcome {
    let directory = tempfile::tempdir_in(place)?;
    let store = Arc::new(Store::open(&directory.path().join("store"))?);
    let kit = Kit {
        executor: Executor::new(host, store),
    };
    let base = {
        let active = kit.executor.store().prepare()?;
        std::fs::create_dir(active.upper().join("etc"))?;
        active.commit(None, 0)?.id
    };

    let many = directory.path().join("many");
    for folder in 0..FILES / 100 {
        let folder = many.join(format!("{}/{folder}", folder % 10));
        std::fs::create_dir_all(&folder)?;
        for file in 0..100 {
            std::fs::write(
                folder.join(format!("file-{file}.txt")),
                vec![b'x'; 500 + file * 40],
            )?;
        }
    }
    std::fs::write(many.join("one"), "one")?;
    // Stamps of this very moment are not trusted.
    std::thread::sleep(Duration::from_millis(100));
    println!(
        "context of {FILES} files, cold:  {:?}",
        kit.tree(&many, ".")?
    );
    println!(
        "context of {FILES} files, warm:  {:?}",
        kit.tree(&many, ".")?
    );
    println!(
        "one file of that context:       {:?}",
        kit.tree(&many, "one")?
    );
    println!(
        "COPY of one file on a base:     {:?}",
        kit.copy(Some(&base), &many, "one")?
    );
    println!(
        "COPY of {FILES} files on a base: {:?}",
        kit.copy(Some(&base), &many, ".")?
    );
    println!(
        "COPY of {FILES} files on nothing: {:?}",
        kit.copy(None, &many, ".")?
    );

    let large = directory.path().join("large");
    std::fs::create_dir(&large)?;
    let mut file = std::fs::File::create(large.join("file"))?;
    for piece in 0..1024_u32 {
        let bytes: Vec<u8> = (0..1_u32 << 18)
            .flat_map(|word| (word ^ piece << 9).to_le_bytes())
            .collect();
        std::io::Write::write_all(&mut file, &bytes)?;
    }
    drop(file);
    std::thread::sleep(Duration::from_millis(100));
    println!(
        "context of 1 GiB, cold:         {:?}",
        kit.tree(&large, ".")?
    );
    println!(
        "COPY of 1 GiB on a base:        {:?}",
        kit.copy(Some(&base), &large, "file")?
    );
    Ok(())
}

struct Kit {
    executor: Executor,
}

struct NoArchives;

impl Unpacker for NoArchives {
    fn is_archive(&self, _file: &mut std::fs::File) -> std::io::Result<bool> {
        Ok(false)
    }

    fn unpack(
        &self,
        _archive: std::fs::File,
        _root: &RootDir,
        _destination: &Path,
        _owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

impl Kit {
    fn context(&self, path: &Path) -> Result<Context, rbuild_engine::context::Error> {
        Context::open(path, None, self.executor.store().clone())
    }

    fn tree(&self, path: &Path, source: &str) -> Result<Duration, Box<dyn std::error::Error>> {
        let start = Instant::now();
        self.context(path)?.tree(&[wanted(source)])?;
        Ok(start.elapsed())
    }

    /// The file operation alone: the tree is known.
    fn copy(
        &self,
        base: Option<&SnapshotId>,
        path: &Path,
        source: &str,
    ) -> Result<Duration, Box<dyn std::error::Error>> {
        let context = self.context(path)?;
        let tree = Arc::new(context.tree(&[wanted(source)])?);
        let sources = [source.to_owned()];
        let request = Request {
            sources: &sources,
            excludes: &Patterns::default(),
            parents: false,
            wildcards: true,
        };
        let start = Instant::now();
        let selection = select(&tree, &request)?;
        selection.key();
        let copy = Copy {
            input: 0,
            sources: selection.sources,
            destination: PathBuf::from("/app/"),
            destination_is_directory: true,
            owner: Owner::Default,
            mode: None,
            mtime: None,
            unpack: false,
        };
        let inputs = [context.input(tree)];
        let base = Base {
            id: base,
            ..Base::default()
        };
        let _: Snapshot = self
            .executor
            .file(base, &[Action::Copy(copy)], &inputs, &NoArchives)?;
        Ok(start.elapsed())
    }
}

fn wanted(source: &str) -> Wanted {
    Wanted {
        sources: vec![source.to_owned()],
        parents: false,
        wildcards: true,
    }
}
