//! Reading and writing OCI layouts (directory and tar) and Docker archives: the containers, not their content.
