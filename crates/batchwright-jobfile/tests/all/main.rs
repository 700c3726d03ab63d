//! All tests of job files in one program: each program would link every connector again.

mod api;
mod archives;
mod book;
mod csv_outputs;
mod file_steps;
mod folder;
mod fuzz;
mod kinds;
mod lookup;
mod mail;
mod many_files;
mod odd_files;
mod other_tools;
mod places;
mod processors;
mod regroup;
mod rotate;
mod schema;
mod several;
