# thaw_unity(<target>…): compiles the target's sources in batches of eight. Headers of LibTorch cost ten seconds and more
# per compiled file, whatever is in it, so every target that sees them calls this. Files of one batch share their
# file-local names. -DTHAW_UNITY=OFF compiles file by file, for work on one of them.
option(THAW_UNITY "compile LibTorch's users in batches" ON)
function(thaw_unity)
  if(THAW_UNITY)
    set_target_properties(${ARGN} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()
