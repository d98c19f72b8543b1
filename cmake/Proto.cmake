# thaw_protos(<library> [GRPC <library>] SOURCES a.proto …): messages into one library, service stubs
# into another, so that a program without gRPC can use the messages.
function(thaw_protos library)
  cmake_parse_arguments(ARG "" "GRPC" "SOURCES;SERVICES;IMPORT" ${ARGN})
  set(out ${CMAKE_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${out})
  set(root ${CMAKE_SOURCE_DIR}/proto)
  set(paths -I ${root})
  foreach(path IN LISTS ARG_IMPORT)
    list(APPEND paths -I ${path})
  endforeach()
  set(messages)
  foreach(source IN LISTS ARG_SOURCES)
    string(REGEX REPLACE "\\.proto$" "" stem ${source})
    set(file ${root}/${source})
    if(NOT EXISTS ${file})
      list(GET ARG_IMPORT 0 first)
      set(file ${first}/${source})
    endif()
    add_custom_command(
      OUTPUT ${out}/${stem}.pb.cc ${out}/${stem}.pb.h
      COMMAND protobuf::protoc ${paths} --cpp_out=${out} ${source}
      DEPENDS ${file} VERBATIM)
    list(APPEND messages ${out}/${stem}.pb.cc)
  endforeach()
  add_library(${library} STATIC ${messages})
  target_include_directories(${library} SYSTEM PUBLIC ${out})
  target_link_libraries(${library} PUBLIC protobuf::libprotobuf)
  target_compile_options(${library} PRIVATE -w)
  if(ARG_GRPC)
    set(stubs)
    foreach(source IN LISTS ARG_SERVICES)
      string(REGEX REPLACE "\\.proto$" "" stem ${source})
      add_custom_command(
        OUTPUT ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h
        COMMAND protobuf::protoc ${paths} --grpc_out=${out}
                --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> ${source}
        DEPENDS ${root}/${source} VERBATIM)
      list(APPEND stubs ${out}/${stem}.grpc.pb.cc)
    endforeach()
    add_library(${ARG_GRPC} STATIC ${stubs})
    target_link_libraries(${ARG_GRPC} PUBLIC ${library} gRPC::grpc++)
    target_compile_options(${ARG_GRPC} PRIVATE -w)
  endif()
endfunction()
