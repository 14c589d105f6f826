# The image of deploy/Dockerfile on AWS Lambda: the Lambda Web Adapter turns each invocation into a request.
#   docker build --provenance=false --file deploy/lambda.Dockerfile --build-arg IMAGE=function --tag function-lambda deploy
ARG IMAGE=function
FROM public.ecr.aws/awsguru/aws-lambda-adapter:0.9.1 AS adapter
FROM ${IMAGE}
COPY --from=adapter /lambda-adapter /opt/extensions/lambda-adapter
# Lambda sends an instance one request at a time. What is no HTTP request, such as a message of SQS, is POSTed to /events.
ENV AWS_LWA_PORT=8080 \
    AWS_LWA_READINESS_CHECK_PATH=/readyz \
    AWS_LWA_PASS_THROUGH_PATH=/events \
    AWS_LWA_ASYNC_INIT=true \
    THREADS=1
