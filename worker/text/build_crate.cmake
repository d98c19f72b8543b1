# Run by CMakeLists.txt under a lock: builds the crate at CRATE in TARGET_DIR and copies the archive to ARCHIVE.
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env RUSTC=${RUSTC} CARGO_TARGET_DIR=${TARGET_DIR} ${CARGO} build --release --locked
          --offline --quiet --manifest-path ${CRATE}/Cargo.toml
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "cargo build failed in ${CRATE}. If a crate is missing: script/bootstrap fetches them")
endif()
file(COPY_FILE ${TARGET_DIR}/release/libthaw_text.a ${ARCHIVE})
