#!/usr/bin/env python3
"""Submits a job, watches it and fetches its result, with nothing but what grpcio-tools makes of proto/thaw/v1.

  python -m grpc_tools.protoc -I proto --python_out=stubs --grpc_python_out=stubs proto/thaw/v1/*.proto
  PYTHONPATH=stubs python submit.py ADDRESS TOKEN_FILE BASE_MODEL DATASET TO_DIRECTORY
"""
import pathlib
import sys

import grpc
from thaw.v1 import (artifact_service_pb2, artifact_service_pb2_grpc, fine_tune_service_pb2, fine_tune_service_pb2_grpc,
                     job_pb2, job_spec_pb2)

address, token_file, model, dataset, target = sys.argv[1:]
credentials = (("authorization", "Bearer " + pathlib.Path(token_file).read_text().strip()),)
channel = grpc.insecure_channel(address)
jobs = fine_tune_service_pb2_grpc.FineTuneServiceStub(channel)
artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)

training = job_spec_pb2.Training(dataset=dataset, text_classification=job_spec_pb2.TextClassification())
for blocks in (0, 1, 2):  # the head first, then one more block at a time
    training.phases.add(selector={"last_blocks": blocks}, learning_rate=1e-3 / (blocks + 1), learning_rate_decay=2.6, epochs=1)
spec = job_spec_pb2.JobSpec(base_model=model, training=training)
job = jobs.CreateJob(fine_tune_service_pb2.CreateJobRequest(spec=spec), metadata=credentials)
print("submitted", job.id, flush=True)

for message in jobs.WatchJob(fine_tune_service_pb2.WatchJobRequest(id=job.id), metadata=credentials):
    kind = message.event.WhichOneof("kind") if message.HasField("event") else None
    if kind == "metric_points":
        for point in message.event.metric_points.points:
            for value in point.values:
                if value.name == "loss":
                    print("step", point.step, "loss", value.value, flush=True)
    elif kind == "state_change":
        print("state", job_pb2.Job.State.Name(message.event.state_change.to), message.event.state_change.reason)

job = jobs.GetJob(fine_tune_service_pb2.GetJobRequest(id=job.id), metadata=credentials)
if not job.result:
    sys.exit(f"{job.id} left no result: {job.failure.message or job.state_reason}")
for file in artifacts.GetArtifact(artifact_service_pb2.GetArtifactRequest(id=job.result), metadata=credentials).files:
    path = pathlib.Path(target, file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = artifacts.Read(artifact_service_pb2.ReadRequest(id=job.result, path=file.path), metadata=credentials)
    path.write_bytes(b"".join(chunk.data for chunk in chunks))
print("fetched", job.result, dict(job.result_metrics))
